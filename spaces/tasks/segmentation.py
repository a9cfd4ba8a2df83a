"""Segmentation: a class for every pixel of a frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.inputs import InputSpec, shown_part
from spaces.tasks.classification import root_amplitudes
from spaces.tasks.task import ClassNames, FrameSize, OneTensor, TaskName, name_class

COMPARED_SIDE = 64
"""Answers are compared at no more than this many positions in a row."""
SHOWN_CLASSES = 4


class Segmentation(OneTensor):
    """The answer is (batch, classes, height, width) logits, of the whole input at any resolution.

    The comparable form is their softmax at a coarser grid: neighbouring pixels say the same.
    """

    name: ClassVar[TaskName] = "segmentation"
    graph_outputs: ClassVar[tuple[str, ...]] = ("logits",)
    is_matrix: ClassVar[bool] = False

    def comparable_form(self, answer: Tensor) -> Tensor:
        return _coarse(answer).softmax(1)

    def amplitudes(self, comparable: Tensor) -> Tensor:
        return root_amplitudes(comparable)

    def agreement(self, merged: Tensor, original: Tensor) -> Tensor:
        """Return the share of positions at which the most probable class is the same."""
        return (merged.argmax(1) == original.argmax(1)).float().mean((1, 2))

    def closeness(self, rounded: Tensor, original: Tensor) -> Tensor:
        """Return 1 minus the probability that moves from class to class, over the positions."""
        return 1 - (rounded - original).abs().sum(1).mean((1, 2)) / 2

    def finish(self, answer: Tensor, sizes: Sequence[FrameSize], spec: InputSpec) -> list[Tensor]:
        """Return the class of each pixel of each frame, (height, width).

        Pixels that the input does not show have the class -1.
        """
        classes = answer.argmax(1).cpu()
        return [to_frame(one, size, spec) for one, size in zip(classes, sizes, strict=True)]

    def describe(
        self, finished: Sequence[Tensor], frame: int, names: ClassNames = ()
    ) -> list[str]:
        counts = Counter(finished[frame].flatten().tolist())
        total = finished[frame].numel()
        largest = counts.most_common(SHOWN_CLASSES)
        shares = (f"{name_class(index, names)} on {count / total:.0%}" for index, count in largest)
        return [", ".join(shares)]


def to_frame(classes: Tensor, size: FrameSize, spec: InputSpec) -> Tensor:
    """Return a map of classes, (h, w), of the whole input as one of a frame, (height, width).

    Pixels that the input does not show have the class -1.
    """
    part = shown_part(size, spec)
    frame = torch.full(size, -1, dtype=torch.int64)
    inner = classes[: _share(part.input_height, spec.height, classes.shape[0]),
                    : _share(part.input_width, spec.width, classes.shape[1])]  # fmt: skip
    resized = F.interpolate(
        inner[None, None].double(), (part.height, part.width), mode="nearest-exact"
    )
    frame[part.top : part.top + part.height, part.left : part.left + part.width] = resized[
        0, 0
    ].long()
    return frame


def _share(shown: int, whole: int, length: int) -> int:
    """Return how many of `length` positions the shown pixels of an input cover; at least one."""
    return max(1, round(shown / whole * length))


def _coarse(logits: Tensor) -> Tensor:
    """Return every k-th position, for the smallest k that leaves at most `COMPARED_SIDE`."""
    step = -(-max(logits.shape[2:]) // COMPARED_SIDE)
    return logits[:, :, step // 2 :: step, step // 2 :: step]
