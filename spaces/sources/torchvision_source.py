"""Build the classifiers of torchvision.

This is the only module that imports torchvision's networks.
"""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn
from torchvision.transforms import InterpolationMode

from spaces.cutting import NO_HINTS
from spaces.errors import BadInput
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.hub import hub_errors
from spaces.sources.source import (
    BuiltNetwork,
    as_trained,
    built_classifier,
    input_errors,
    load_for_inference,
)

WITH_AUXILIARY = ("googlenet", "inception_v3")
"""Networks with classifiers for training only."""


class TorchvisionSource:
    """Networks by their names in `torchvision.models`."""

    def build(self, spec: ModelSpec, name: str) -> BuiltNetwork:
        classifiers = torchvision.models.list_models(module=torchvision.models)
        if name not in classifiers:
            raise BadInput(
                f"{spec.name}: torchvision has no classifier {name!r}; it has "
                f"{', '.join(sorted(classifiers))}"
            )
        if spec.input.in_chans == 1:
            raise BadInput(f"{spec.name}: in_chans 1: torchvision's networks take 3 channels")
        input_spec = _input(spec, name)
        net = _create(spec, name, input_spec)
        note = load_for_inference(net, spec)
        return built_classifier(net, spec, input_spec, NO_HINTS, note, _classes(net))

    def weights_licence(self, spec: ModelSpec, name: str) -> str:
        return ""


def _create(spec: ModelSpec, name: str, input_spec: InputSpec) -> nn.Module:
    options: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    if name.startswith("vit_") and spec.size is not None:
        options["image_size"] = input_spec.height  # it has a table of positions
    if name in WITH_AUXILIARY:
        options["init_weights"] = False  # torchvision warns of its own, which takes a minute
    with hub_errors(spec):
        weights = "DEFAULT" if spec.weights == "hub" else None
        net: nn.Module = torchvision.models.get_model(name, weights=weights, **options)
        return net


def _input(spec: ModelSpec, name: str) -> InputSpec:
    """Return the input with which torchvision evaluates its newest weights of a network."""
    evaluation = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    side, resized = evaluation.crop_size[0], evaluation.resize_size[0]
    height, width = spec.size or (side, side)
    if name.startswith("vit_") and height != width:
        raise BadInput(f"{spec.name}: size {height}x{width}: torchvision's {name} is square")
    with input_errors(spec):
        own = InputSpec(
            height,
            width,
            tuple(evaluation.mean),
            tuple(evaluation.std),
            spec.fit or "crop",
            min(1.0, side / resized),
            "bicubic" if evaluation.interpolation == InterpolationMode.BICUBIC else "bilinear",
        )
    return as_trained(own, spec)


def _classes(net: nn.Module) -> int:
    """Return the number of outputs of the last layer with weights."""
    layers = [part for part in net.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    last = layers[-1]
    return last.out_features if isinstance(last, nn.Linear) else last.out_channels
