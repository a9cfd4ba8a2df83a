"""Build the detectors of effdet.

This is the only module that imports effdet.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from spaces.cutting import Hints
from spaces.errors import BadInput
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.hub import hub_errors
from spaces.sources.published_names import coco_names
from spaces.sources.source import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BuiltNetwork,
    as_trained,
    check_whole_frame,
    cut,
    input_errors,
    load_for_inference,
    no_hub_weights,
    task_of,
)
from spaces.sources.timm_source import containers_of
from spaces.stages import Layout, StagedModel
from spaces.tasks.task import ClassNames

with warnings.catch_warnings():
    # effdet scripts functions at import; torch warns that scripting is deprecated.
    warnings.simplefilter("ignore")
    import effdet
    from effdet.anchors import Anchors
    from effdet.bench import _batch_detection, _post_process
    from effdet.config.model_config import efficientdet_model_param_dict as CONFIGS


class EffdetSource:
    """Networks by their names in effdet."""

    def build(self, spec: ModelSpec, name: str) -> BuiltNetwork:
        task = task_of(spec, ("detection",))
        net = _create(spec, name)
        note = load_for_inference(net, spec)
        input_spec, head = _input(net, spec), DetectorHead(net)
        parts = cut(
            net.backbone,
            spec,
            input_spec,
            Hints(containers_of(net.backbone), outputs="representations"),
        )
        layout = Layout(spec.name, parts.names, parts.taps)
        classes = int(net.config.num_classes)
        model = StagedModel(layout, parts.stages, head, input_spec, task, classes).eval()

        def answers(inputs: Tensor) -> list[Tensor]:
            representations = dict(model.walk(inputs))
            return _flat(head.raw([representations[tap] for tap in layout.taps]))

        return BuiltNetwork(model, note, lambda inputs: _flat(net(inputs)), answers)

    def weights_licence(self, spec: ModelSpec, name: str) -> str:
        return ""

    def class_names(self, spec: ModelSpec, name: str) -> ClassNames:
        """Return the names of COCO's categories, on which all published weights are trained."""
        names = coco_names()
        is_coco = spec.num_classes in (None, len(names) - 1)
        return names if spec.weights == "hub" and is_coco else ()


def _create(spec: ModelSpec, name: str) -> Any:
    if name not in CONFIGS:
        raise BadInput(f"{spec.name}: effdet has no network {name!r}; it has {sorted(CONFIGS)}")
    size = _size(spec, name)
    if any(side % 32 or side < 128 for side in size):
        raise BadInput(
            f"{spec.name}: input size {size} of a detector: both sides must be multiples of 32, "
            "at least 128"
        )
    check_whole_frame(spec.fit, spec, "detection")
    if spec.input.in_chans == 1:
        raise BadInput(f"{spec.name}: in_chans 1: a detector takes 3 channels")
    if spec.weights == "hub" and not CONFIGS[name].get("url"):
        raise no_hub_weights(spec)
    with hub_errors(spec):
        return effdet.create_model(
            name,
            bench_task="",
            num_classes=spec.num_classes,
            pretrained=spec.weights == "hub",
            pretrained_backbone=False,
            image_size=size,
        )


def _size(spec: ModelSpec, name: str) -> tuple[int, int]:
    height, width = spec.size or tuple(CONFIGS[name]["image_size"])
    return height, width


def _input(net: Any, spec: ModelSpec) -> InputSpec:
    config = net.config
    height, width = config.image_size
    mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    with input_errors(spec):
        own = InputSpec(height, width, tuple(mean), tuple(std), spec.fit or "letterbox")
    return as_trained(own, spec)


class DetectorHead(nn.Module):
    """EfficientDet's feature pyramid, class and box nets, anchors and non-maximum suppression."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.fpn = net.fpn
        self.class_net = net.class_net
        self.box_net = net.box_net
        self.anchors = Anchors.from_config(net.config)
        self.config = net.config

    def raw(self, taps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the class maps and the box maps of every pyramid level."""
        pyramid = self.fpn(list(taps))
        return self.class_net(pyramid), self.box_net(pyramid)

    def probabilities(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, anchors x classes) probabilities."""
        levels = self.class_net(self.fpn(list(taps)))
        return _rows(levels, self.config.num_classes).flatten(1).sigmoid()

    def dense(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the boxes and scores of all anchors, before non-maximum suppression.

        Boxes are (batch, anchors, 4) as x1, y1, x2, y2 in input pixels; scores are
        (batch, anchors, classes).
        """
        classes, codes = (
            _rows(levels, width)
            for levels, width in zip(self.raw(taps), (self.config.num_classes, 4), strict=True)
        )
        top, left, bottom, right = self.anchors.boxes.unbind(1)
        height, width = bottom - top, right - left
        y, x, tall, wide = codes.unbind(2)
        middle_y, half_y = y * height + (top + bottom) / 2, tall.exp() * height / 2
        middle_x, half_x = x * width + (left + right) / 2, wide.exp() * width / 2
        corners = (middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y)
        return torch.stack(corners, dim=2), classes.sigmoid()

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, n, 6) detections; see `StagedModel`."""
        classes, boxes = self.raw(taps)
        config = self.config
        points = min(config.max_detection_points, len(self.anchors.boxes) * config.num_classes)
        classes, boxes, indices, labels = _post_process(
            classes, boxes, config.num_levels, config.num_classes, points
        )
        detections: Tensor = _batch_detection(
            taps[0].shape[0],
            classes,
            boxes,
            self.anchors.boxes,
            indices,
            labels,
            max_det_per_image=config.max_det_per_image,
            soft_nms=config.soft_nms,
        )
        return detections


def _rows(levels: list[Tensor], width: int) -> Tensor:
    """Join the (batch, anchors x width, h, w) maps of all levels to (batch, anchors, width)."""
    rows = [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, width) for level in levels]
    return torch.cat(rows, dim=1)


def _flat(maps: tuple[list[Tensor], list[Tensor]]) -> list[Tensor]:
    classes, boxes = maps
    return [*classes, *boxes]
