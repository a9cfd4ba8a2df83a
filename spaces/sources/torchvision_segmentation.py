"""Build the segmentations of torchvision."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import segmentation

from spaces.cutting import Hints
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.hub import hub_errors
from spaces.sources.source import (
    BuiltNetwork,
    Role,
    as_trained,
    build_traced,
    check_whole_frame,
    load_for_inference,
    task_of,
)

SEGMENTATIONS = frozenset(torchvision.models.list_models(module=segmentation))
DEFAULT_SIDE = 520
"""Side of the input, in pixels: torchvision's evaluation resizes the short side to it."""


class MainSegmentation(nn.Module):
    """A segmentation of torchvision without its second classifier, which only training reads."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.backbone, self.classifier = net.backbone, net.classifier
        self._reads_all = isinstance(net, segmentation.LRASPP)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (batch, classes, height, width) logits at the size of the input."""
        features = self.backbone(inputs)
        logits = self.classifier(features if self._reads_all else features["out"])
        return F.interpolate(logits, inputs.shape[2:], mode="bilinear", align_corners=False)


def build_segmentation(spec: ModelSpec, name: str) -> BuiltNetwork:
    """Build a segmentation, load its weights and cut it; see `NetworkSource.build`."""
    task = task_of(spec, ("segmentation",))
    check_whole_frame(spec.fit, spec, "segmentation")
    net = _create(spec, name)
    note = load_for_inference(net, spec)
    classes = [m for m in net.classifier.modules() if isinstance(m, nn.Conv2d)][-1].out_channels
    role = Role(_input(spec, name), task, classes, Hints(frozenset({"backbone"})))
    built = build_traced(MainSegmentation(net).eval(), spec, role, note)
    return BuiltNetwork(built.model, note, lambda inputs: [net(inputs)["out"]], built.answers)


def _create(spec: ModelSpec, name: str) -> Any:
    options: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    with hub_errors(spec):
        weights = "DEFAULT" if spec.weights == "hub" else None
        return torchvision.models.get_model(
            name, weights=weights, weights_backbone=None, **options
        )


def _input(spec: ModelSpec, name: str) -> InputSpec:
    evaluation = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    height, width = spec.size or (DEFAULT_SIDE, DEFAULT_SIDE)
    own = InputSpec(
        height, width, tuple(evaluation.mean), tuple(evaluation.std), spec.fit or "letterbox"
    )
    return as_trained(own, spec)
