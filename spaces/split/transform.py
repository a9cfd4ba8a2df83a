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
    maps: int
    """Maps over channels asked for; neighbouring zones share one, up to a gain of each."""

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

    @property
    def map_of_zones(self) -> list[int]:
        """The number of the map of each zone."""
        count = len(self.zone_sizes)
        maps = min(self.maps, count)
        return [zone * maps // count for zone in range(count)]


def dct_matrix(size: int) -> NDArray[np.float64]:
    """Return the orthonormal DCT-II, (frequencies, positions).

    Source: Ahmed, Natarajan and Rao, "Discrete cosine transform", 1974.
    """
    frequencies, positions = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.cos(np.pi * frequencies * (2 * positions + 1) / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


@lru_cache(maxsize=64)
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
    found: NDArray[np.int64] = np.unique(rings, return_inverse=True)[1].astype(np.int64)
    found.flags.writeable = False  # it is cached
    return found


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


class ChannelMaps(NamedTuple):
    """What a transform is made of, besides the form."""

    mean: Tensor
    """(c,)"""
    gains: Tensor
    """(zones,): by which coefficients of a zone are multiplied."""
    maps: Sequence[Tensor]
    """(rank, c) each; those of an inverse are transposed."""


class _ZoneTransform(nn.Module):
    """A mean, a DCT, and linear maps over channels, with a gain for each zone of frequencies."""

    def __init__(self, form: TensorForm, parts: ChannelMaps) -> None:
        super().__init__()
        self.form = form
        self.ranks = tuple(len(part) for part in parts.maps)
        self._sizes, self._map_of_zones = form.zone_sizes, form.map_of_zones
        self.frequencies = FrequencyTransform(form)
        mean = parts.mean.float().reshape(-1, *[1] * (len(form.shape) - 1))
        self.register_buffer("mean", mean)
        self.register_buffer("gains", parts.gains.float())
        self.register_buffer("maps", torch.cat([part.float() for part in parts.maps]))
        self.mean: Tensor
        self.gains: Tensor
        self.maps: Tensor

    @property
    def channel_maps(self) -> tuple[Tensor, ...]:
        """(rank, c) each."""
        return _cut(self.maps, self.ranks, 0)

    @property
    def row_counts(self) -> list[tuple[int, int]]:
        """The zone and the number of coefficients of each row."""
        return [
            (zone, size)
            for zone, (size, rank) in enumerate(self._zone_shapes())
            for _ in range(rank)
        ]

    @property
    def coefficient_count(self) -> int:
        """Coefficients of one frame."""
        return sum(size * rank for size, rank in self._zone_shapes())

    def _zone_shapes(self) -> list[tuple[int, int]]:
        """Return the frequencies and the components of each zone."""
        ranks = (self.ranks[number] for number in self._map_of_zones)
        return list(zip(self._sizes, ranks, strict=True))

    def _zone_maps(self) -> list[Tensor]:
        maps = self.channel_maps
        return [maps[number] for number in self._map_of_zones]

    def _stored_parts(self) -> dict[str, Tensor]:
        return {
            "form": torch.tensor([*self.form[1:], *self.form.shape], dtype=torch.int32),
            "ranks": torch.tensor(self.ranks, dtype=torch.int32),
            "mean": self.mean.flatten().clone(),
            "gains": self.gains.clone(),
        }


class ForwardTransform(_ZoneTransform):
    """What the device computes: coefficients of a representation.

    The maps are stored in float16, scaled by a power of two, and hold the rounded values.
    """

    def __init__(self, form: TensorForm, parts: ChannelMaps) -> None:
        super().__init__(form, parts)
        largest = float(self.maps.abs().max()) if len(self.maps) else 0.0
        self.exponent = LARGEST_EXPONENT - math.frexp(largest)[1]
        self.maps.copy_(self._rounded().float() * 2.0**-self.exponent)

    def forward(self, values: Tensor) -> Tensor:
        """Return (batch, coefficients) of (batch, c, h, w), or of (batch, c)."""
        zones = _cut(self.frequencies(values - self.mean), self._sizes, 2)
        triples = zip(self._zone_maps(), zones, self.gains, strict=True)
        return torch.cat([(part @ zone).flatten(1) * gain for part, zone, gain in triples], 1)

    def _rounded(self) -> Tensor:
        return (self.maps * 2.0**self.exponent).half()

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors from which `from_stored` builds the same transform."""
        exponent = torch.tensor([self.exponent], dtype=torch.int32)
        return {**self._stored_parts(), "exponent": exponent, "maps": self._rounded()}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> ForwardTransform:
        """Return the transform that `stored` wrote."""
        scale = 2.0 ** -int(tensors["exponent"])
        return cls(*_parts_of(tensors, tensors["maps"].float() * scale))


class InverseTransform(_ZoneTransform):
    """What the server computes: a representation of coefficients.

    Its maps are transposed: row k of a map is what coefficient k adds to the channels. Its gains
    are the inverse ones.
    """

    def forward(self, coefficients: Tensor) -> Tensor:
        """Return (batch, c, h, w), or (batch, c), of (batch, coefficients)."""
        shapes = self._zone_shapes()
        parts = _cut(coefficients, [size * rank for size, rank in shapes], 1)
        zones = [
            zone_map.T @ (part * gain).reshape(len(part), rank, size)
            for zone_map, part, gain, (size, rank) in zip(
                self._zone_maps(), parts, self.gains, shapes, strict=True
            )
        ]
        values: Tensor = self.frequencies.invert(torch.cat(zones, 2)) + self.mean
        return values

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors from which `from_stored` builds the same transform."""
        return {**self._stored_parts(), "maps": self.maps.clone()}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> InverseTransform:
        """Return the transform that `stored` wrote."""
        return cls(*_parts_of(tensors, tensors["maps"]))


def _parts_of(tensors: Mapping[str, Tensor], maps: Tensor) -> tuple[TensorForm, ChannelMaps]:
    zones, map_count, *shape = (int(number) for number in tensors["form"])
    ranks = [int(rank) for rank in tensors["ranks"]]
    parts = ChannelMaps(tensors["mean"], tensors["gains"], _cut(maps, ranks, 0))
    return TensorForm(tuple(shape), zones, map_count), parts


def _cut(values: Tensor, sizes: Sequence[int], dim: int) -> tuple[Tensor, ...]:
    return torch.split_with_sizes(values, list(sizes), dim)
