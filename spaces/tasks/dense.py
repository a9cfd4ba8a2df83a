"""Any other answer: a tensor of numbers, such as a depth map or keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from spaces.inputs import InputSpec
from spaces.tasks.task import ClassNames, FrameSize, OneTensor, TaskName


class Dense(OneTensor):
    """The answer is any tensor (batch, ...), compared as it is, by its relative error."""

    name: ClassVar[TaskName] = "dense"
    graph_outputs: ClassVar[tuple[str, ...]] = ("values",)
    is_matrix: ClassVar[bool] = False

    def comparable_form(self, answer: Tensor) -> Tensor:
        return answer

    def amplitudes(self, comparable: Tensor) -> Tensor:
        rows = comparable.flatten(1)
        unit: Tensor = rows / _lengths(rows.detach())[:, None]
        return unit

    def agreement(self, merged: Tensor, original: Tensor) -> Tensor:
        """Return 1 minus the length of the change over that of the original, and at least 0."""
        change = _lengths(merged - original) / _lengths(original)
        return (1 - change).clamp_min(0)

    def closeness(self, rounded: Tensor, original: Tensor) -> Tensor:
        """Return the same as `agreement`: it has no decision that hides small changes."""
        return self.agreement(rounded, original)

    def finish(self, answer: Tensor, sizes: Sequence[FrameSize], spec: InputSpec) -> Tensor:
        """Return (frames, ...), as the network gives them."""
        return answer

    def describe(self, finished: Tensor, frame: int, names: ClassNames = ()) -> list[str]:
        values = finished[frame]
        shape = " x ".join(map(str, values.shape))
        return [f"{shape} numbers from {float(values.min()):.3g} to {float(values.max()):.3g}"]


def _lengths(values: Tensor) -> Tensor:
    """Return the length of the vector of each frame's numbers, (batch,); at least 1e-12."""
    lengths: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return lengths.clamp_min(1e-12)
