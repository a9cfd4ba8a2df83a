"""Turn representations into coefficients and back: a DCT over positions, maps over channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LARGEST_EXPONENT = 10
"""Maps are scaled by a power of two so that their largest entry in float16 is near 2^10."""


class TensorForm(NamedTuple):
    """The shape of a crossing representation without its batch, and how it is coded."""

    shape: tuple[int, ...]
    """(channels, height, width), or (channels,) of a pooled one."""
    zones: int
    """Zones of frequencies asked for; small maps may have fewer."""

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width; a pooled representation is a map of one position."""
        return (self.shape[1], self.shape[2]) if len(self.shape) > 1 else (1, 1)

    @property
    def zone_sizes(self) -> list[int]:
        """Frequencies of each zone."""
        return [int(count) for count in np.bincount(zone_of_frequencies(*self.grid, self.zones))]


def dct_matrix(size: int) -> NDArray[np.float64]:
    """Return the orthonormal DCT-II, (frequencies, positions).

    Source: Ahmed, Natarajan and Rao, "Discrete cosine transform", 1974.
    """
    frequencies, positions = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.cos(np.pi * frequencies * (2 * positions + 1) / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def zone_of_frequencies(height: int, width: int, zones: int) -> NDArray[np.int64]:
    """Return the zone of each frequency, (height x width,), row after row.

    Zones are rings of equal width around frequency 0, whose radius counts both directions
    relative to the size of the map. They are found in integers, so that all machines agree. Rings
    that hold no frequency of a small map are left out.
    """
    rows, columns = np.arange(height)[:, None] * width, np.arange(width)[None, :] * height
    squares = (rows**2 + columns**2).ravel()  # of the radius, times (height x width)^2
    farthest = 2 * (height * width) ** 2
    rings = [math.isqrt(zones**2 * int(square) // farthest) for square in squares]
    return np.unique(rings, return_inverse=True)[1].astype(np.int64)


class _FrequencyOrder(NamedTuple):
    """What a transform needs of a grid."""

    rows: Tensor
    """(height, height): the DCT over rows."""
    columns: Tensor
    """(width, width)."""
    to_zones: Tensor
    """(height x width,): zone after zone, the numbers of the frequencies, column after column."""
    to_map: Tensor
    """The inverse of this permutation."""


@lru_cache(maxsize=64)
def _frequency_order(form: TensorForm) -> _FrequencyOrder:
    height, width = form.grid
    zones = zone_of_frequencies(height, width, form.zones).reshape(height, width).T.ravel()
    order = np.argsort(zones, kind="stable")
    with torch.inference_mode(False):
        return _FrequencyOrder(
            torch.from_numpy(dct_matrix(height)).float(),
            torch.from_numpy(dct_matrix(width)).float(),
            torch.from_numpy(order),
            torch.from_numpy(np.argsort(order)),
        )


class FrequencyTransform(nn.Module):
    """The DCT of a representation, zone after zone of its frequencies."""

    def __init__(self, form: TensorForm) -> None:
        super().__init__()
        self.form = form
        for name, tensor in _frequency_order(form)._asdict().items():
            self.register_buffer(name, tensor, persistent=False)
        self.rows: Tensor
        self.columns: Tensor
        self.to_zones: Tensor
        self.to_map: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """Return (batch, c, frequencies) of (batch, c, h, w), or of (batch, c)."""
        maps = values.reshape(len(values), self.form.channels, *self.form.grid)
        # The second product transposes the map: both are then one matrix product each.
        by_column = (maps @ self.columns.T).transpose(2, 3).contiguous()
        return (by_column @ self.rows.T).flatten(2).index_select(2, self.to_zones)

    def invert(self, frequencies: Tensor) -> Tensor:
        """Return (batch, c, h, w), or (batch, c), of (batch, c, frequencies)."""
        height, width = self.form.grid
        by_column = frequencies.index_select(2, self.to_map)
        by_column = by_column.reshape(len(by_column), self.form.channels, width, height)
        maps = (by_column @ self.rows).transpose(2, 3).contiguous() @ self.columns
        return maps.reshape(len(maps), *self.form.shape)


class _ZoneMaps(nn.Module):
    """A mean, a DCT, and one linear map over channels per zone of frequencies."""

    def __init__(self, form: TensorForm, mean: Tensor, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.form = form
        self.ranks = tuple(len(zone) for zone in maps)
        self.frequencies = FrequencyTransform(form)
        self.register_buffer("mean", mean.float().reshape(-1, *[1] * (len(form.shape) - 1)))
        self.register_buffer("maps", torch.cat([zone.float() for zone in maps]))
        self.mean: Tensor
        self.maps: Tensor

    @property
    def zone_maps(self) -> tuple[Tensor, ...]:
        """(rank, c) of each zone."""
        return _cut(self.maps, self.ranks, 0)

    @property
    def row_counts(self) -> list[tuple[int, int]]:
        """The zone and the number of coefficients of each row."""
        sizes = enumerate(zip(self.ranks, self.form.zone_sizes, strict=True))
        return [(zone, count) for zone, (rank, count) in sizes for _ in range(rank)]

    @property
    def coefficient_count(self) -> int:
        """Coefficients of one frame."""
        return sum(count for _, count in self.row_counts)

    def _stored_form(self) -> dict[str, Tensor]:
        return {
            "shape": torch.tensor(self.form.shape, dtype=torch.int32),
            "zones": torch.tensor([self.form.zones], dtype=torch.int32),
            "ranks": torch.tensor(self.ranks, dtype=torch.int32),
            "mean": self.mean.flatten().clone(),
        }


class ForwardTransform(_ZoneMaps):
    """What the device computes: coefficients of a representation.

    The maps are stored in float16, scaled by a power of two, and hold the rounded values.
    """

    def __init__(self, form: TensorForm, mean: Tensor, maps: Sequence[Tensor]) -> None:
        super().__init__(form, mean, maps)
        largest = float(self.maps.abs().max()) if len(self.maps) else 0.0
        self.exponent = LARGEST_EXPONENT - math.frexp(largest)[1]
        self.maps.copy_(self._rounded().float() * 2.0**-self.exponent)

    def forward(self, values: Tensor) -> Tensor:
        """Return (batch, coefficients) of (batch, c, h, w), or of (batch, c)."""
        zones = _cut(self.frequencies(values - self.mean), self.form.zone_sizes, 2)
        pairs = zip(self.zone_maps, zones, strict=True)
        return torch.cat([(weight @ zone).flatten(1) for weight, zone in pairs], 1)

    def _rounded(self) -> Tensor:
        return (self.maps * 2.0**self.exponent).half()

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors from which `from_stored` builds the same transform."""
        exponent = torch.tensor([self.exponent], dtype=torch.int32)
        return {**self._stored_form(), "exponent": exponent, "maps": self._rounded()}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> ForwardTransform:
        """Return the transform that `stored` wrote."""
        scale = 2.0 ** -int(tensors["exponent"])
        return cls(*_form_of(tensors, tensors["maps"].float() * scale))


class InverseTransform(_ZoneMaps):
    """What the server computes: a representation of coefficients.

    Its maps are transposed: row k of a zone is what coefficient k adds to the channels.
    """

    def forward(self, coefficients: Tensor) -> Tensor:
        """Return (batch, c, h, w), or (batch, c), of (batch, coefficients)."""
        sizes = [*zip(self.ranks, self.form.zone_sizes, strict=True)]
        parts = _cut(coefficients, [rank * count for rank, count in sizes], 1)
        zones = [
            weight.T @ part.reshape(len(part), *size)
            for part, size, weight in zip(parts, sizes, self.zone_maps, strict=True)
        ]
        values: Tensor = self.frequencies.invert(torch.cat(zones, 2)) + self.mean
        return values

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors from which `from_stored` builds the same transform."""
        return {**self._stored_form(), "maps": self.maps.clone()}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> InverseTransform:
        """Return the transform that `stored` wrote."""
        return cls(*_form_of(tensors, tensors["maps"]))


def _form_of(
    tensors: Mapping[str, Tensor], maps: Tensor
) -> tuple[TensorForm, Tensor, Sequence[Tensor]]:
    shape = tuple(int(side) for side in tensors["shape"])
    ranks = [int(rank) for rank in tensors["ranks"]]
    return TensorForm(shape, int(tensors["zones"])), tensors["mean"], _cut(maps, ranks, 0)


def _cut(values: Tensor, sizes: Sequence[int], dim: int) -> tuple[Tensor, ...]:
    return torch.split_with_sizes(values, list(sizes), dim)
