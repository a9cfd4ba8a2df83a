"""Plain codings of crossing representations: a linear map, a uniform quantiser, and zstandard.

With the principal components of the channels it is the usual training-free scheme; with the
channels themselves it is a quantised representation as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from spaces.tasks.task import FrameSize

ZSTANDARD_LEVEL = 19
BYTE = 8
_PACKED, _BYTEWISE = b"\0", b"\1"
"""How levels become bytes, in the first byte of a message: the form that is shorter."""
_Levels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PlainMap:
    """Components of one crossing representation, and the range of each."""

    mean: Tensor
    """(channels,)"""
    components: Tensor
    """(kept, channels), orthonormal."""
    low: Tensor
    """(kept,) of the value that gets the lowest level."""
    high: Tensor
    """(kept,) of the value that gets the highest level."""
    shape: tuple[int, ...]
    """Of the representation of one frame: (channels, height, width), or (channels,)."""

    @property
    def positions(self) -> int:
        """Positions of the representation; 1 of a pooled one."""
        return prod(self.shape[1:])

    def levels(self, tensor: Tensor, highest: int) -> NDArray[np.uint8]:
        """Return a (batch, c, ...) representation as (batch, kept * positions) levels."""
        centred = tensor.float().flatten(2) if tensor.dim() > 2 else tensor.float()[..., None]
        values = self.components @ (centred - self.mean[:, None])
        scaled = (values - self.low[:, None]) / self._span[:, None] * highest
        levels = scaled.round().clamp(0, highest).to(torch.uint8)
        return levels.flatten(1).cpu().numpy()

    def restored(self, levels: NDArray[np.uint8], highest: int) -> Tensor:
        """Return the (batch, c, ...) representation of (batch, kept * positions) levels."""
        counts = torch.from_numpy(levels).reshape(len(levels), len(self.low), -1).float()
        values = counts / highest * self._span[:, None] + self.low[:, None]
        tensor = self.components.T @ values + self.mean[:, None]
        return tensor.reshape(len(levels), *self.shape)

    @property
    def _span(self) -> Tensor:
        return (self.high - self.low).clamp_min(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True, eq=False)
class PlainCoder:
    """Codes crossing representations with levels of a few bits, and zstandard.

    Raises:
        ValueError: the bits are not from 1 to 8.
    """

    maps: tuple[PlainMap, ...]
    """One of each crossing representation."""
    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= BYTE:
            raise ValueError(f"levels of {self.bits} bits: must be from 1 to {BYTE}")

    def encode(self, tensors: Sequence[Tensor], frame_sizes: Sequence[FrameSize]) -> list[bytes]:
        """Return the message of each frame."""
        levels = [
            own.levels(tensor, self._highest)
            for own, tensor in zip(self.maps, tensors, strict=True)
        ]
        compressor = zstandard.ZstdCompressor(
            level=ZSTANDARD_LEVEL, write_checksum=False, write_content_size=False
        )
        return [
            min(
                _PACKED + compressor.compress(pack_bits(row, self.bits)),
                _BYTEWISE + compressor.compress(row.tobytes()),
                key=len,
            )
            for row in np.concatenate(levels, axis=1)
        ]

    def decode(self, messages: Sequence[bytes]) -> list[Tensor]:
        """Return the crossing representations."""
        counts = [len(own.low) * own.positions for own in self.maps]
        rows = np.stack([self._levels(message, sum(counts)) for message in messages])
        parts = np.split(rows, np.cumsum(counts)[:-1], axis=1)
        return [
            own.restored(part, self._highest) for own, part in zip(self.maps, parts, strict=True)
        ]

    def _levels(self, message: bytes, count: int) -> _Levels:
        data = zstandard.ZstdDecompressor().decompress(message[1:], max_output_size=count)
        if message[:1] == _BYTEWISE:
            return np.frombuffer(data, np.uint8)
        return unpack_bits(data, self.bits, count)

    @property
    def _highest(self) -> int:
        return (1 << self.bits) - 1


def pack_bits(levels: NDArray[np.uint8], bits: int) -> bytes:
    """Return (count,) levels below 2^bits one after another, without gaps."""
    return np.packbits(np.unpackbits(levels[:, None], axis=1)[:, BYTE - bits :]).tobytes()


def unpack_bits(data: bytes, bits: int, count: int) -> NDArray[np.uint8]:
    """Return the (count,) levels that `pack_bits` packed."""
    packed = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits)
    padded = np.zeros((count, BYTE), np.uint8)
    padded[:, BYTE - bits :] = packed.reshape(count, bits)
    return np.packbits(padded, axis=1)[:, 0]
