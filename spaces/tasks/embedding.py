"""Embedding: a vector for a frame, near those of frames that show the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from spaces.inputs import InputSpec
from spaces.tasks.task import ClassNames, FrameSize, OneTensor, TaskName

SHOWN_NUMBERS = 4


class Embedding(OneTensor):
    """The answer is (batch, dimensions), and its comparable form has length 1.

    Vectors are compared by their directions: by the cosine of the angle between them.
    """

    name: ClassVar[TaskName] = "embedding"
    graph_outputs: ClassVar[tuple[str, ...]] = ("embedding",)
    is_matrix: ClassVar[bool] = True

    def comparable_form(self, answer: Tensor) -> Tensor:
        return F.normalize(answer, dim=1)

    def amplitudes(self, comparable: Tensor) -> Tensor:
        return comparable

    def agreement(self, merged: Tensor, original: Tensor) -> Tensor:
        """Return the cosine of the angle, and 0 from a right angle on."""
        return (merged * original).sum(1).clamp(0, 1)

    def closeness(self, rounded: Tensor, original: Tensor) -> Tensor:
        """Return the same as `agreement`: it has no decision that hides small changes."""
        return self.agreement(rounded, original)

    def finish(self, answer: Tensor, sizes: Sequence[FrameSize], spec: InputSpec) -> Tensor:
        """Return (frames, dimensions), as the network gives them."""
        return answer

    def describe(self, finished: Tensor, frame: int, names: ClassNames = ()) -> list[str]:
        first = ", ".join(f"{value:.3f}" for value in finished[frame, :SHOWN_NUMBERS].tolist())
        return [f"{finished.shape[1]} numbers, the first {first}"]
