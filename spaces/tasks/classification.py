"""Classification: one of several classes for a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from spaces.inputs import InputSpec
from spaces.tasks.task import ClassNames, FrameSize, OneTensor, TaskName, name_class

BEST = 3
"""Number of classes that a description names."""


class Classification(OneTensor):
    """The answer is (batch, classes) logits, and its comparable form their softmax."""

    name: ClassVar[TaskName] = "classification"
    graph_outputs: ClassVar[tuple[str, ...]] = ("logits",)
    is_matrix: ClassVar[bool] = True

    def comparable_form(self, answer: Tensor) -> Tensor:
        return answer.softmax(1)

    def amplitudes(self, comparable: Tensor) -> Tensor:
        return root_amplitudes(comparable)

    def agreement(self, merged: Tensor, original: Tensor) -> Tensor:
        """Return 1 where the most probable class is the same."""
        return (merged.argmax(1) == original.argmax(1)).float()

    def closeness(self, rounded: Tensor, original: Tensor) -> Tensor:
        """Return 1 minus the probability that moves from class to class."""
        return 1 - (rounded - original).abs().sum(1) / 2

    def finish(self, answer: Tensor, sizes: Sequence[FrameSize], spec: InputSpec) -> Tensor:
        """Return (frames, classes) logits."""
        return answer

    def describe(self, finished: Tensor, frame: int, names: ClassNames = ()) -> list[str]:
        best = finished[frame].softmax(0).topk(min(BEST, finished.shape[1]))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [
            ", ".join(
                f"{name_class(index, names)} {probability:.0%}" for probability, index in pairs
            )
        ]


def root_amplitudes(probabilities: Tensor) -> Tensor:
    """Return twice the square roots of probabilities as (batch, n)."""
    smallest = torch.finfo(probabilities.dtype).tiny  # the root has no gradient at 0
    return 2 * probabilities.clamp_min(smallest).sqrt().flatten(1)
