"""Detection: boxes of objects in a frame, each with a class and a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spaces.inputs import InputSpec, boxes_to_frame
from spaces.tasks.classification import root_amplitudes
from spaces.tasks.task import ClassNames, FrameSize, TaskName, name_class

NMS_ANCHORS, MAX_DETECTIONS, NMS_IOU = 5000, 100, 0.5
"""As in effdet: anchors for non-maximum suppression, detections per frame, and the IoU."""
SHOWN_SCORE = 0.3
"""A description names detections with at least this score."""


@runtime_checkable
class DetectionHead(Protocol):
    """The head of a detector, which can also output probabilities that are comparable."""

    def probabilities(self, taps: list[Tensor]) -> Tensor:
        """Return (batch, n) probabilities; those of one-stage detectors: anchors x classes."""
        ...


@runtime_checkable
class DenseHead(DetectionHead, Protocol):
    """The head of a one-stage detector, which can also output its results for every anchor."""

    def dense(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (batch, anchors, 4) boxes and (batch, anchors, classes) scores."""
        ...


class AnchorHead(nn.Module):
    """The head of a detector whose layers give the boxes and scores of all its anchors."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def probabilities(self, taps: list[Tensor]) -> Tensor:
        return self.dense(taps)[1].flatten(1)

    def dense(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
        boxes, scores = self.layers(*taps)
        return boxes, scores

    def forward(self, taps: list[Tensor]) -> Tensor:
        frames = zip(*self.dense(taps), strict=True)
        return torch.stack([suppress_anchors(boxes, scores) for boxes, scores in frames])


class Detections(NamedTuple):
    """The objects that a detector finds in one frame, by descending score."""

    boxes: Tensor
    """(n, 4) as x1, y1, x2, y2 in pixels of the frame."""
    scores: Tensor
    """(n,) from 0 to 1."""
    classes: Tensor
    """(n,) class numbers, counted from 1."""


class Detection:
    """The answer is (batch, n, 6): x1, y1, x2, y2 in input pixels, score, and class from 1.

    Rows with score 0 are padding. The comparable form is that of the head: probabilities.
    """

    name: ClassVar[TaskName] = "detection"
    graph_outputs: ClassVar[tuple[str, ...]] = ("boxes", "scores")
    is_matrix: ClassVar[bool] = False

    def comparable(self, head: nn.Module, taps: list[Tensor]) -> Tensor:
        assert isinstance(head, DetectionHead)
        return head.probabilities(taps)

    def amplitudes(self, comparable: Tensor) -> Tensor:
        return root_amplitudes(comparable)

    def agreement(self, merged: Tensor, original: Tensor) -> Tensor:
        """Return the sum of the minima of the squared probabilities over that of their maxima.

        They are squared so that a thousand uncertain anchors weigh little beside a certain one.
        """
        low, high = torch.minimum(merged, original), torch.maximum(merged, original)
        return low.square().sum(1) / high.square().sum(1)

    def closeness(self, rounded: Tensor, original: Tensor) -> Tensor:
        """Return 1 minus the mean change, weighted by the original probabilities."""
        moved = (rounded - original).abs()
        return 1 - (original * moved).sum(1) / original.sum(1)

    def graph_answers(self, head: nn.Module, taps: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the boxes and scores of all anchors.

        Non-maximum suppression has no fixed output shape and is not part of a graph. A two-stage
        detector has no such output: its probabilities take the place in comparisons.
        """
        return head.dense(taps) if isinstance(head, DenseHead) else (self.comparable(head, taps),)

    def graph_refusal(self, head: nn.Module) -> str:
        if isinstance(head, DenseHead):
            return ""
        return (
            "two-stage detectors are not exported as a graph, because which boxes their second "
            "stage reads depends on the frame"
        )

    def from_graph(self, outputs: Sequence[Tensor]) -> Tensor:
        frames = zip(*outputs, strict=True)
        return torch.stack([suppress_anchors(boxes, scores) for boxes, scores in frames])

    def comparable_from_graph(self, outputs: Sequence[Tensor]) -> Tensor:
        _, scores = outputs
        return scores.flatten(1)

    def finish(
        self, answer: Tensor, sizes: Sequence[FrameSize], spec: InputSpec
    ) -> list[Detections]:
        """Return the detections of each frame, in pixels of the frame."""
        return [
            _detections(rows.cpu(), size, spec) for rows, size in zip(answer, sizes, strict=True)
        ]

    def describe(
        self, finished: Sequence[Detections], frame: int, names: ClassNames = ()
    ) -> list[str]:
        lines = []
        for box, score, kind in zip(*finished[frame], strict=True):
            if score >= SHOWN_SCORE:
                corners = ", ".join(f"{side:.0f}" for side in box.tolist())
                lines.append(f"{name_class(int(kind), names)} {score:.0%} at {corners}")
        return lines


def suppress_anchors(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return (detections, 6) rows from (anchors, 4) boxes and (anchors, classes) scores."""
    # here: commands that only read results would wait for torchvision
    from torchvision.ops import batched_nms

    best_scores, indices = scores.flatten().topk(min(NMS_ANCHORS, scores.numel()))
    anchors, classes = indices // scores.shape[1], indices % scores.shape[1]
    remaining = batched_nms(boxes[anchors], best_scores, classes, NMS_IOU)[:MAX_DETECTIONS]
    parts = (boxes[anchors], best_scores[:, None], classes[:, None] + 1.0)
    rows = torch.cat([part[remaining] for part in parts], dim=1)
    padded = torch.zeros(MAX_DETECTIONS, 6, device=rows.device)
    padded[: len(rows)] = rows
    return padded


def _detections(rows: Tensor, size: FrameSize, spec: InputSpec) -> Detections:
    rows = rows[rows[:, 4] > 0]
    boxes = torch.from_numpy(boxes_to_frame(rows[:, :4].numpy(), size, spec)).float()
    return Detections(boxes, rows[:, 4], rows[:, 5].long())
