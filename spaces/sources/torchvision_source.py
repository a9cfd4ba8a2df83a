"""Build the networks of torchvision: classifiers here, others in the modules beside it."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn
from torchvision.transforms import InterpolationMode

from spaces.errors import BadInput
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.hub import hub_errors
from spaces.sources.published_names import published_names
from spaces.sources.source import (
    BuiltNetwork,
    Role,
    as_trained,
    build_traced,
    input_errors,
    load_for_inference,
    task_of,
)
from spaces.sources.torchvision_detector import DETECTION_HEADS, build_detector
from spaces.sources.torchvision_segmentation import SEGMENTATIONS, build_segmentation
from spaces.tasks.task import ClassNames

CLASSIFIERS = frozenset(torchvision.models.list_models(module=torchvision.models))
WITH_AUXILIARY = ("googlenet", "inception_v3")
"""Networks with classifiers for training only."""


class TorchvisionSource:
    """Networks by their names in `torchvision.models`."""

    def build(self, spec: ModelSpec, name: str) -> BuiltNetwork:
        if name in DETECTION_HEADS:
            return build_detector(spec, name)
        if spec.input.in_chans == 1:
            raise BadInput(f"{spec.name}: in_chans 1: torchvision's networks take 3 channels")
        if name in SEGMENTATIONS:
            return build_segmentation(spec, name)
        if name not in CLASSIFIERS:
            raise _unsupported(spec, name)
        task = task_of(spec, ("classification",))
        input_spec = _input(spec, name)
        net = _create(spec, name, input_spec)
        note = load_for_inference(net, spec)
        return build_traced(net, spec, Role(input_spec, task, _classes(net)), note)

    def weights_licence(self, spec: ModelSpec, name: str) -> str:
        return ""

    def class_names(self, spec: ModelSpec, name: str) -> ClassNames:
        """Return the categories of the newest weights, which `hub` means."""
        if spec.weights != "hub":
            return ()
        names = published_names(name)
        count = len(names) - (name in DETECTION_HEADS)  # theirs count from 1
        return names if spec.num_classes in (None, count) else ()


def _unsupported(spec: ModelSpec, name: str) -> BadInput:
    if name in torchvision.models.list_models(module=torchvision.models.detection):
        return BadInput(
            f"{spec.name}: torchvision's {name} also finds masks or keypoints, which merge-search "
            f"does not; its detectors of boxes are {', '.join(sorted(DETECTION_HEADS))}"
        )
    return BadInput(
        f"{spec.name}: torchvision has no network {name!r}; it has "
        f"{', '.join(sorted([*CLASSIFIERS, *DETECTION_HEADS, *SEGMENTATIONS]))}"
    )


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
