"""Means and covariances of crossing representations, zone by zone of their frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.utils.arrays import FloatMatrix, FloatVector
from spaces.split.transform import FrequencyTransform, TensorForm

_ROOM = 1.5
"""The maps of one representation, at full rank, have at most this many times the entries that the
device holds: rows that tell little can be left out."""


def coded_form(shape: tuple[int, ...], zones: int, device_values: int) -> TensorForm:
    """Return how a crossing representation is coded: a function of its shape alone.

    Each zone has its own map if there is room, else neighbouring zones share one.
    """
    maps = zones
    while maps > 1 and maps * shape[0] ** 2 > _ROOM * device_values:
        maps //= 2
    return TensorForm(shape, zones, maps)


class ZoneSquares:
    """Sums of the products of channels, zone by zone of frequencies."""

    def __init__(self, form: TensorForm) -> None:
        self.form, self._sizes = form, form.zone_sizes
        self._transform = FrequencyTransform(form)
        shape = (len(self._sizes), form.channels, form.channels)
        self._sums = torch.zeros(shape, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add (batch, c, h, w), or (batch, c)."""
        if self._sums.device != values.device:
            self._sums, _ = self._sums.to(values.device), self._transform.to(values.device)
        zones = torch.split_with_sizes(self._transform(values), self._sizes, 2)
        for total, zone in zip(self._sums, zones, strict=True):
            rows = zone.transpose(0, 1).flatten(1)
            total += rows @ rows.T

    def sums(self) -> list[FloatMatrix]:
        """Return the sums, (c, c) for each zone."""
        return [np.asarray(total) for total in self._sums.cpu().numpy()]

    def means(self, count: float) -> list[FloatMatrix]:
        """Return the sums per frequency, of a total over `count` frames."""
        pairs = zip(self.sums(), self._sizes, strict=True)
        return [total / (count * size) for total, size in pairs]


@dataclass(frozen=True, eq=False)
class ZoneStatistics:
    """What a codec is fitted to: one crossing representation, over frames."""

    form: TensorForm
    mean: FloatVector
    """(c,) over frames and positions."""
    covariances: Sequence[FloatMatrix]
    """(c, c) per zone: of the channels at one frequency of the zone, without that mean."""
    frames: int

    @property
    def variance(self) -> float:
        """The total variance over all channels and positions."""
        sizes = self.form.zone_sizes
        return sum(
            size * float(np.trace(square))
            for size, square in zip(sizes, self.covariances, strict=True)
        )


class StatisticsPass:
    """The statistics of one crossing representation, batch by batch.

    Products are taken of the differences from the first batch's mean, which loses no digits.
    """

    def __init__(self, form: TensorForm) -> None:
        self.form = form
        self._frames = 0
        self._pilot: Tensor | None = None
        self._difference: FloatVector = np.zeros(form.channels)

    def add(self, values: Tensor) -> None:
        """Add (batch, c, h, w), or (batch, c)."""
        if self._pilot is None:
            self._pilot = _over_positions(values).mean(0)
            self._squares = ZoneSquares(self.form)
        shifted = values - self._pilot.reshape(-1, *[1] * (values.dim() - 2))
        self._squares.add(shifted)
        self._difference += _over_positions(shifted).double().sum(0).cpu().numpy()
        self._frames += len(values)

    def finish(self) -> ZoneStatistics:
        """Return the statistics of all batches."""
        assert self._pilot is not None, "no frames"
        difference = self._difference / self._frames
        covariances = self._squares.means(self._frames)
        covariances[0] -= _square_in_zone_0(difference, self.form)
        mean = self._pilot.double().cpu().numpy() + difference
        return ZoneStatistics(self.form, mean, covariances, self._frames)


def pooled(parts: Sequence[ZoneStatistics]) -> ZoneStatistics:
    """Return the statistics of the frames of all parts."""
    form, frames = parts[0].form, sum(part.frames for part in parts)
    shares = [part.frames / frames for part in parts]
    mean = sum((share * part.mean for share, part in zip(shares, parts, strict=True)), np.zeros(1))
    covariances: list[FloatMatrix] = [
        np.sum([share * square for share, square in zip(shares, squares, strict=True)], axis=0)
        for squares in zip(*(part.covariances for part in parts), strict=True)
    ]
    for share, part in zip(shares, parts, strict=True):
        covariances[0] += share * _square_in_zone_0(part.mean - mean, form)
    return ZoneStatistics(form, mean, covariances, frames)


def _square_in_zone_0(mean: FloatVector, form: TensorForm) -> FloatMatrix:
    """Return what a mean of the channels adds to the mean product of zone 0.

    It is in frequency 0 alone, which is in that zone.
    """
    height, width = form.grid
    return np.outer(mean, mean) * height * width / form.zone_sizes[0]


def _over_positions(values: Tensor) -> Tensor:
    """Return (batch, c) means over positions."""
    return values if values.dim() == 2 else values.mean((2, 3))
