"""How large the coefficients of a codec are, in histograms of a logarithmic grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.utils.arrays import FloatMatrix, FloatVector
from spaces.split.coefficients import QUARTER, CoefficientRows

BINS_PER_OCTAVE = 16
LOWEST_OCTAVE, OCTAVES = -32, 48
"""The grid begins at 2^-32; what is smaller or larger counts in its first or last bin."""
SMALLEST_MEAN = 2.0**LOWEST_OCTAVE


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """The mean histogram of one frame's coefficients, by zone and scale class."""

    zones: NDArray[np.int32]
    """(groups,)"""
    classes: NDArray[np.int32]
    """(groups,)"""
    counts: FloatMatrix
    """(groups, bins): coefficients of a frame."""


class MagnitudePass:
    """The magnitudes of each row of coefficients, batch by batch."""

    def __init__(self, rows: Sequence[tuple[int, int]], device: torch.device) -> None:
        """Take the zone and the number of coefficients of each row."""
        self._zones = np.array([zone for zone, _ in rows], np.int32)
        self._sizes = np.array([count for _, count in rows], np.int32)
        self._bins = BINS_PER_OCTAVE * OCTAVES
        owners = np.repeat(np.arange(len(rows)), self._sizes)
        self._first = torch.from_numpy(owners * self._bins).to(device)
        self._counts = torch.zeros(len(rows) * self._bins, dtype=torch.int64, device=device)
        self._sums = torch.zeros(len(self._first), dtype=torch.float64, device=device)
        self._frames = 0

    def add(self, coefficients: Tensor) -> None:
        """Add the (batch, coefficients) of some frames."""
        magnitudes = coefficients.abs()
        octaves = magnitudes.clamp_min(SMALLEST_MEAN).log2() - LOWEST_OCTAVE
        places = (octaves * BINS_PER_OCTAVE).long().clamp_max(self._bins - 1) + self._first
        self._counts += torch.bincount(places.flatten(), minlength=len(self._counts))
        self._sums += magnitudes.sum(0, dtype=torch.float64)
        self._frames += len(coefficients)

    def rows(self) -> CoefficientRows:
        """Return the rows, with the scale classes of the magnitudes so far."""
        first = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        sums = np.add.reduceat(self._sums.cpu().numpy(), first)
        means = np.maximum(sums / (self._sizes * self._frames), SMALLEST_MEAN)
        classes = np.rint(np.log2(means) / QUARTER).astype(np.int32)
        return CoefficientRows(self._sizes, self._zones, classes)

    def finish(self) -> Magnitudes:
        """Return the mean histogram of all batches."""
        keys = np.stack([self._zones, self.rows().classes], 1)
        groups, owners = np.unique(keys, axis=0, return_inverse=True)
        counts = np.zeros((len(groups), self._bins))
        rows = self._counts.reshape(-1, self._bins).cpu().numpy()
        np.add.at(counts, owners.ravel(), rows / self._frames)
        return Magnitudes(groups[:, 0], groups[:, 1], counts)


def magnitudes_in_bins(parts: int) -> FloatVector:
    """Return `parts` evenly spread magnitudes within each bin of the grid, in order."""
    places = (np.arange(BINS_PER_OCTAVE * OCTAVES * parts) + 0.5) / (BINS_PER_OCTAVE * parts)
    return np.exp2(places + LOWEST_OCTAVE)
