"""Send crossing representations as they are: the answers are those of the unsplit model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from spaces.tasks.task import FrameSize


@dataclass(frozen=True)
class TransparentCoder:
    """Sends float32 values without coding them."""

    shapes: tuple[tuple[int, ...], ...]
    """Of one frame, of each crossing representation."""

    def encode(self, tensors: Sequence[Tensor], frame_sizes: Sequence[FrameSize]) -> list[bytes]:
        """Return the values of each frame."""
        arrays = [tensor.cpu().numpy() for tensor in tensors]
        return [
            b"".join(array[number].tobytes() for array in arrays)
            for number in range(len(frame_sizes))
        ]

    def decode(self, messages: Sequence[bytes]) -> list[Tensor]:
        """Return the same values."""
        values = np.stack([np.frombuffer(message, np.float32) for message in messages])
        ends = np.cumsum([prod(shape) for shape in self.shapes])[:-1]
        return [
            torch.from_numpy(part.reshape(-1, *shape))
            for part, shape in zip(np.split(values, ends, axis=1), self.shapes, strict=True)
        ]
