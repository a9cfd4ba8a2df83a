"""Predict the bytes and the distortion of a codec from histograms: no model runs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.split.magnitudes import (
    BINS_PER_OCTAVE,
    OCTAVES,
    Magnitudes,
    magnitudes_in_bins,
)
from search.utils.arrays import FloatMatrix, FloatVector
from spaces.split import rans
from spaces.split.coefficients import QUARTER, Coding
from spaces.split.message import HEADER_BYTES, SENDABLE_STEPS
from spaces.split.raw_bits import growing_widths
from spaces.split.tables import (
    COARSEST,
    DEAD_ZONE,
    ESCAPE,
    FINEST,
    CodingTables,
    count_low_bits,
    reconstruction_offsets,
)

_PARTS = 8
"""Magnitudes per bin that are quantised: the edges of levels lie anywhere in it."""
LEAST_SHARE, MOST_SHARE = 1e-4, 0.5
"""Useful steps: their distortion is this share of the distortion when nothing is sent."""


class _Costs(NamedTuple):
    """What a magnitude costs, by the difference of class and step, and by the bin of its ratio to
    the step size."""

    bits: FloatMatrix
    """(differences, bins), of symbols."""
    raw_bits: FloatMatrix
    """(differences, bins)"""
    errors: FloatMatrix
    """(differences, bins), squared, in squares of the step size."""


class _Totals(NamedTuple):
    """What a message of one step has, by the number of bands."""

    bytes: FloatVector
    """(zones + 1,)"""
    distortion: FloatVector
    """(zones + 1,)"""


class RateCurve:
    """The mean bytes of a message, and its distortion, for each coding.

    The distortion is the change of the answers, as far as it is linear, relative to the variance
    of the answers over frames and summed over models; see `answer_weights`.
    """

    def __init__(self, magnitudes: Magnitudes, tables: CodingTables, lost: float) -> None:
        """Take the distortion `lost` by what no row holds."""
        self._magnitudes, self._tables, self._lost = magnitudes, tables, lost
        self._squares = magnitudes_in_bins(1) ** 2
        self._totals = lru_cache(maxsize=None)(self._totals_of)
        self.zones = int(magnitudes.zones.max(initial=-1)) + 1

    def bytes(self, coding: Coding) -> float:
        """Return the predicted mean bytes of a message, its header included."""
        return float(self._totals(coding.step).bytes[min(coding.bands, self.zones)])

    def distortion(self, coding: Coding) -> float:
        """Return the predicted mean distortion."""
        return float(self._totals(coding.step).distortion[min(coding.bands, self.zones)])

    @cached_property
    def steps(self) -> range:
        """The steps between hardly any distortion and hardly any content."""
        nothing = self.distortion(Coding(SENDABLE_STEPS[-1], 0)) - self._lost

        def share(step: int) -> float:
            lost = self.distortion(Coding(step, self.zones)) - self._lost
            return lost / nothing if nothing > 0 else 1.0

        first = bisect_left(SENDABLE_STEPS, LEAST_SHARE, key=share)
        last = bisect_right(SENDABLE_STEPS, MOST_SHARE, lo=first, key=share)
        return SENDABLE_STEPS[first : max(last, first + 1)]

    def _totals_of(self, step: int) -> _Totals:
        magnitudes, costs = self._magnitudes, _costs(self._tables)
        differences = np.minimum(magnitudes.classes - step, FINEST) - COARSEST
        sent = differences >= 0
        rows, places = np.maximum(differences, 0)[:, None], _relative_bins(step)[None, :]

        def summed(table: FloatMatrix) -> FloatVector:
            return np.asarray((table[rows, places] * magnitudes.counts).sum(1))

        energy = np.asarray(magnitudes.counts @ self._squares)
        step_square = Coding(step, 0).step_size ** 2
        errors = np.where(sent, summed(costs.errors) * step_square - energy, 0.0)
        raw = self._cumulative(np.where(sent, summed(costs.raw_bits), 0.0))
        bits = self._cumulative(np.where(sent, summed(costs.bits), 0.0)) + raw
        overhead = np.array([rans.overhead_bits(round(count)) for count in raw])
        distortion = energy.sum() + self._lost + self._cumulative(errors)
        return _Totals((bits + overhead) / 8 + HEADER_BYTES, distortion)

    def _cumulative(self, by_group: FloatVector) -> FloatVector:
        """Return the sums over the first zones: of none, of one, ..., of all."""
        by_zone = np.bincount(self._magnitudes.zones, by_group, self.zones)
        return np.concatenate([[0.0], np.cumsum(by_zone)])


def _relative_bins(step: int) -> NDArray[np.int64]:
    """Return the bin of each magnitude's ratio to a step size: the grid, shifted."""
    bins = np.arange(BINS_PER_OCTAVE * OCTAVES)
    shifted = bins - round(step * QUARTER * BINS_PER_OCTAVE)
    return np.clip(shifted, 0, len(bins) - 1)


@lru_cache(maxsize=4)
def _costs(tables: CodingTables) -> _Costs:
    ratios = magnitudes_in_bins(_PARTS)
    levels = np.floor(ratios + 1 - DEAD_ZONE)
    bits, raw_bits, errors = [], [], []
    for difference, offset in enumerate(reconstruction_offsets()):
        low_bits = int(count_low_bits(np.array(difference + COARSEST, np.int32)))
        high = np.floor(levels / 2**low_bits)
        symbols = np.minimum(high, ESCAPE).astype(np.int64)
        beyond = np.where(high >= ESCAPE, growing_widths(np.maximum(high - ESCAPE, 0)), 0)
        bits.append(tables.bits[difference][symbols])
        raw_bits.append(low_bits + (levels > 0) + beyond)
        errors.append((ratios - np.where(levels > 0, levels + offset, 0)) ** 2)
    return _Costs(*(_mean_of_parts(np.array(table)) for table in (bits, raw_bits, errors)))


def _mean_of_parts(table: FloatMatrix) -> FloatMatrix:
    """Return the mean of the parts of each bin, (differences, bins)."""
    return np.asarray(table.reshape(len(table), -1, _PARTS).mean(2))
