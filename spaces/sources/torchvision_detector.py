"""Build the detectors of torchvision.

The trunk is the classifier inside the network's backbone. The head is everything after it: the
feature pyramid or further layers, the anchors, the nets that classify and correct boxes, and
non-maximum suppression. All of them are torchvision's own modules. Its resizing and normalisation
are replaced by the `InputSpec` of the model.

torchvision counts its classes from 1: its output 0 is the background, or is not used. It is left
out here, so that class c of a detection is torchvision's label c.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, clip_boxes_to_image

from spaces.cutting import Hints
from spaces.errors import BadInput
from spaces.inputs import Fit, InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.hub import hub_errors
from spaces.sources.source import (
    BuiltNetwork,
    as_trained,
    check_whole_frame,
    cut,
    load_for_inference,
    no_package_weights,
    task_of,
)
from spaces.stages import Layout, StagedModel

COCO_CLASSES = 90
LARGEST_DEFAULT_SIDE = 640
"""Pixels; torchvision's 800 for the short side of a frame costs at least half as much again."""
FIXED_BOXES = 256
"""Boxes at which the second stage of a detector is compared."""

Features = Mapping[str, Tensor]
Found = list[dict[str, Tensor]]
"""torchvision's detections of each frame: boxes, scores, labels."""


class PyramidHead(nn.Module):
    """The feature pyramid of a detector and, without its backbone, the network behind it."""

    def __init__(self, pyramid: nn.Module, net: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.net = net
        self.size = size

    def features(self, taps: list[Tensor]) -> Features:
        """Return the maps of all levels, as the network's backbone does."""
        features: Features = self.pyramid(*taps)
        return features

    def _images(self, features: Features, count: int) -> Any:
        """Return images without content: torchvision's modules ask only for their sizes."""
        empty = next(iter(features.values())).new_empty(())
        return ImageList(empty.expand(count, 3, *self.size), [self.size] * count)

    def _anchors(self, generator: nn.Module, features: Features) -> Tensor:
        """Return the (anchors, 4) boxes of all levels, in pixels of the input."""
        # A generator moves its boxes to the device, which no exported graph may do: so a copy.
        images, levels = self._images(features, 1), list(features.values())
        anchors: Tensor = copy.copy(generator)(images, levels)[0]
        return anchors


class OneStageHead(PyramidHead):
    """A head that classifies and corrects every anchor."""

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """Return the (batch, anchors, n) tensors that torchvision's head computes, by name."""
        outputs: dict[str, Tensor] = self.net.head(list(features.values()))
        return outputs

    def raw(self, features: Features) -> list[Tensor]:
        """Return the outputs as a list."""
        return list(self.outputs(features).values())

    def probabilities(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, anchors x classes) probabilities."""
        return self._scores(self.outputs(self.features(taps))).flatten(1)

    def dense(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the boxes and scores of all anchors, before non-maximum suppression.

        Boxes are (batch, anchors, 4) as x1, y1, x2, y2 in input pixels; scores are
        (batch, anchors, classes).
        """
        features = self.features(taps)
        outputs, anchors = self.outputs(features), self._anchors(self._generator, features)
        codes = outputs["bbox_regression"]
        repeated = anchors.expand(codes.shape[0], -1, -1).reshape(-1, 4)
        boxes = self._decode(codes.reshape(-1, 4), repeated).reshape(codes.shape)
        return clip_boxes_to_image(boxes, self.size), self._scores(outputs)

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, n, 6) detections; see `StagedModel`."""
        features = self.features(taps)
        outputs, anchors = self.outputs(features), self._anchors(self._generator, features)
        found = self._found(outputs, anchors, features)
        return _rows(found, self.net.detections_per_img)

    @property
    def _generator(self) -> nn.Module:
        generator: nn.Module = self.net.anchor_generator
        return generator

    def _sizes(self, outputs: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        return [self.size] * len(outputs["bbox_regression"])

    def _decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        boxes: Tensor = self.net.box_coder.decode_single(codes, anchors)
        return boxes

    def _scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return (batch, anchors, classes) scores without the background."""
        raise NotImplementedError

    def _found(self, outputs: dict[str, Tensor], anchors: Tensor, features: Features) -> Found:
        """Return the detections of each frame after non-maximum suppression."""
        raise NotImplementedError


class SsdHead(OneStageHead):
    """The head of SSD: one softmax over the classes and the background for each anchor."""

    def _scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["cls_logits"].softmax(-1)[..., 1:]

    def _found(self, outputs: dict[str, Tensor], anchors: Tensor, features: Features) -> Found:
        sizes = self._sizes(outputs)
        found: Found = self.net.postprocess_detections(outputs, [anchors] * len(sizes), sizes)
        return found


class RetinaNetHead(OneStageHead):
    """The head of RetinaNet: a sigmoid for each class and anchor; no class has output 0."""

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """Return the outputs of torchvision's head without those for label 0."""
        outputs = super().outputs(features)
        return {**outputs, "cls_logits": outputs["cls_logits"][..., 1:]}

    def _scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["cls_logits"].sigmoid()

    def _found(self, outputs: dict[str, Tensor], anchors: Tensor, features: Features) -> Found:
        positions = [level.shape[-2] * level.shape[-1] for level in features.values()]
        each = len(anchors) // sum(positions)
        counts, sizes = [each * count for count in positions], self._sizes(outputs)
        found: Found = self.net.postprocess_detections(
            {name: list(torch.split(output, counts, 1)) for name, output in outputs.items()},
            [list(torch.split(anchors, counts))] * len(sizes),
            sizes,
        )
        return [{**one, "labels": one["labels"] + 1} for one in found]


class FcosHead(RetinaNetHead):
    """The head of FCOS: as RetinaNet's, and each anchor also has a centredness."""

    def _scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def _decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        boxes: Tensor = self.net.box_coder.decode(codes, anchors)
        return boxes


class TwoStageHead(PyramidHead):
    """The head of Faster R-CNN: it classifies the boxes that its first stage proposes.

    It has no `dense` output. The second stage reads the boxes that the first ranks highest, so
    rounding decides which of two near-equal boxes comes first: the outputs of two kernels could
    not be compared row by row.
    """

    def raw(self, features: Features) -> list[Tensor]:
        """Return the outputs of the first stage, and those of the second at fixed boxes."""
        objectness, codes = self.net.rpn.head(list(features.values()))
        return [*objectness, *codes, *self._second_stage(features)]

    def probabilities(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, n) probabilities: that each anchor holds an object, then of each class.

        The class probabilities are those at fixed boxes. The boxes that the second stage reads
        otherwise differ between a merged and an unmerged model, and so could not be compared; the
        first stage alone would not show what sharing does to the second.
        """
        features = self.features(taps)
        objectness, _ = self.net.rpn.head(list(features.values()))
        proposed = torch.cat([level.flatten(1) for level in objectness], dim=1).sigmoid()
        logits, _ = self._second_stage(features)
        classes = logits.softmax(-1)[:, 1:].reshape(len(proposed), -1)
        return torch.cat([proposed, classes], dim=1)

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, n, 6) detections; see `StagedModel`."""
        features = self.features(taps)
        images = self._images(features, len(taps[0]))
        proposals, _ = self.net.rpn(images, features)
        found, _ = self.net.roi_heads(features, proposals, images.image_sizes)
        return _rows(found, self.net.roi_heads.detections_per_img)

    def _second_stage(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return the class logits and the box codes at the fixed boxes of all frames, in rows."""
        heads, count = self.net.roi_heads, len(next(iter(features.values())))
        boxes = [self._fixed_boxes(features)] * count
        pooled = heads.box_roi_pool(features, boxes, [self.size] * count)
        logits, codes = heads.box_predictor(heads.box_head(pooled))
        return logits, codes

    def _fixed_boxes(self, features: Features) -> Tensor:
        """Return boxes of medium size all over the frame: anchors of the middle level."""
        generator = self.net.rpn.anchor_generator
        counts = [
            level.shape[-2] * level.shape[-1] * each
            for level, each in zip(
                features.values(), generator.num_anchors_per_location(), strict=True
            )
        ]
        levels = torch.split(self._anchors(generator, features), counts)
        middle = levels[len(levels) // 2]
        last, some = len(middle) - 1, min(FIXED_BOXES, len(middle))
        spread = torch.linspace(0, last, some, device=middle.device).round().long()
        boxes: Tensor = clip_boxes_to_image(middle[spread], self.size)
        return boxes


def _rows(found: Found, count: int) -> Tensor:
    """Return (batch, count, 6) rows of torchvision's detections, with zeros below them."""
    rows = found[0]["boxes"].new_zeros(len(found), count, 6)
    for frame, one in zip(rows, found, strict=True):
        columns = (one["boxes"], one["scores"][:, None], one["labels"][:, None])
        frame[: len(one["scores"])] = torch.cat(columns, dim=1)
    return rows


DETECTION_HEADS: Mapping[str, type[OneStageHead | TwoStageHead]] = {
    "ssdlite320_mobilenet_v3_large": SsdHead,
    "ssd300_vgg16": SsdHead,
    "retinanet_resnet50_fpn": RetinaNetHead,
    "retinanet_resnet50_fpn_v2": RetinaNetHead,
    "fcos_resnet50_fpn": FcosHead,
    "fasterrcnn_resnet50_fpn": TwoStageHead,
    "fasterrcnn_resnet50_fpn_v2": TwoStageHead,
    "fasterrcnn_mobilenet_v3_large_fpn": TwoStageHead,
    "fasterrcnn_mobilenet_v3_large_320_fpn": TwoStageHead,
}
"""The heads of torchvision's detectors, by name."""


def build_detector(spec: ModelSpec, name: str) -> BuiltNetwork:
    """Build a detector of torchvision, load its weights and cut it; see `NetworkSource`."""
    _check_settings(spec)
    task = task_of(spec, ("detection",))
    net = _create(spec, name)
    input_spec = _input(net, spec)
    note = load_for_inference(net, spec)
    backbone = net.backbone
    parts = cut(backbone, spec, input_spec, _hints(backbone))
    del net.backbone, net.transform  # the stages and the input take their places
    head = DETECTION_HEADS[name](parts.head, net, (input_spec.height, input_spec.width))
    layout = Layout(spec.name, parts.names, parts.taps)
    classes = spec.num_classes or COCO_CLASSES
    model = StagedModel(layout, parts.stages, head, input_spec, task, classes).eval()

    def answers(inputs: Tensor) -> list[Tensor]:
        representations = dict(model.walk(inputs))
        return head.raw(head.features([representations[tap] for tap in layout.taps]))

    return BuiltNetwork(model, note, lambda inputs: head.raw(backbone(inputs)), answers)


def _check_settings(spec: ModelSpec) -> None:
    check_whole_frame(spec.fit, spec, "detection")
    if spec.input.in_chans == 1:
        raise BadInput(f"{spec.name}: in_chans 1: a detector takes 3 channels")
    if spec.weights.startswith("pypi:"):
        raise no_package_weights(spec)
    if spec.weights == "hub" and spec.num_classes not in (None, COCO_CLASSES):
        raise BadInput(
            f"{spec.name}: num_classes {spec.num_classes}: the weights of {spec.arch} in the hub "
            f"have {COCO_CLASSES} classes"
        )


def _create(spec: ModelSpec, name: str) -> Any:
    outputs = (spec.num_classes or COCO_CLASSES) + 1
    weights = "DEFAULT" if spec.weights == "hub" else None
    with hub_errors(spec):
        net = torchvision.models.get_model(
            name, weights=weights, weights_backbone=None, num_classes=outputs
        )
    return with_batchnorms(net)


def with_batchnorms(net: nn.Module) -> nn.Module:
    """Replace frozen BatchNorms in place by BatchNorms that compute the same; return the network.

    torchvision builds the first for its own weights and the second without weights. A bundle is
    loaded into a network without weights, so both need the same tensors and the same epsilon.
    """
    for path, frozen in list(net.named_modules()):
        if isinstance(frozen, FrozenBatchNorm2d):
            norm = nn.BatchNorm2d(len(frozen.weight))
            state = frozen.state_dict()
            state["running_var"] = state["running_var"] + (frozen.eps - norm.eps)
            norm.load_state_dict({**norm.state_dict(), **state})
            net.set_submodule(path, norm)
    return net


def _input(net: Any, spec: ModelSpec) -> InputSpec:
    transform = net.transform
    height, width = _size(net, spec)
    mean, std = tuple(transform.image_mean), tuple(transform.image_std)
    fit: Fit = "squash" if transform.fixed_size else "letterbox"
    return as_trained(InputSpec(height, width, mean, std, spec.fit or fit), spec)


def _size(net: Any, spec: ModelSpec) -> tuple[int, int]:
    side = min(LARGEST_DEFAULT_SIDE, net.transform.min_size[-1])
    size = spec.size or (side, side)
    if size == (side, side):
        return size
    if getattr(getattr(net, "anchor_generator", None), "steps", None):
        raise BadInput(
            f"{spec.name}: input size {size}: the anchors of {spec.arch} are laid out for "
            f"{side}x{side}"
        )
    if any(length % 32 or length < 128 for length in size):
        raise BadInput(
            f"{spec.name}: input size {size} of a detector: both sides must be multiples of 32, "
            "at least 128"
        )
    return size


def _hints(backbone: Any) -> Hints:
    """Say where the classifier inside a backbone ends, and which modules hold its stages."""
    if hasattr(backbone, "fpn"):
        return Hints(frozenset(["body"]), (backbone.fpn,))
    # SSD's own layers come after the classifier; VGG's last ones are the first of them.
    extra = backbone.extra[1:] if hasattr(backbone, "scale_weight") else backbone.extra
    parts = backbone.features.named_children()
    inner = [f"features.{name}" for name, part in parts if isinstance(part, nn.Sequential)]
    return Hints(frozenset(["features", *inner]), tuple(extra.modules()))
