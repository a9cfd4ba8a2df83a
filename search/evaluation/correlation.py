"""Correlation coefficients with bootstrap intervals, vectorised over resamples; numpy only.

A coefficient takes resamples as rows of counts, which say how often each point was drawn, so that
thousands of resamples cost a few matrix products instead of thousands of loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from search.evaluation.bootstrap import DrawCounts, percentile_interval
from search.utils.arrays import FloatVector

Coefficient = Callable[[FloatVector, FloatVector, DrawCounts], FloatVector]
"""From x (points,), y (points,) and counts (resamples, points) to (resamples,) values.

NaN in a resample in which x or y is constant.
"""

RESAMPLES = 2000
MIN_POINTS = 3
"""Fewer points have no meaningful correlation: any two lie on a line."""
ROUNDING_VARIANCE = 1e-12
"""A variance below this fraction of the second moment is rounding error and counts as 0."""


@dataclass(frozen=True)
class Correlation:
    """A coefficient with its 95% bootstrap interval; all three are None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    count: int
    """Number of points, or of groups."""

    def __post_init__(self) -> None:
        numbers = [number for number in (self.low, self.value, self.high) if number is not None]
        if len(numbers) not in (0, 3):
            raise ValueError(f"{self}: low, value and high must be all numbers or all None")
        if not all(isfinite(number) for number in numbers) or numbers != sorted(numbers):
            raise ValueError(f"{self}: the value must be finite and lie within its interval")


def compute_correlation(
    coefficient: Coefficient, x: FloatVector, y: FloatVector, seed: int
) -> Correlation:
    """Return the coefficient of x (points,) and y (points,), with an interval over the points.

    The same seed and number of points give the same resamples, so several metrics are compared on
    the same ones. Undefined for fewer than `MIN_POINTS` points, or where x or y is constant.
    """
    if len(x) < MIN_POINTS or not _varies(x) or not _varies(y):
        return Correlation(None, None, None, len(x))
    value, resampled = _point_and_resamples(coefficient(x, y, _counts(len(x), seed)))
    return _with_interval(value, resampled, len(x))


def compute_mean_correlation(
    coefficient: Coefficient, groups: Sequence[tuple[FloatVector, FloatVector]], seed: int
) -> Correlation:
    """Return the mean of the coefficient over groups of points; the interval resamples groups.

    Groups in which the coefficient is undefined are left out; `count` is the number of the others.
    """
    coefficients = [point_correlation(coefficient, x, y) for x, y in groups]
    values = np.array([value for value in coefficients if value is not None])
    if not len(values):
        return Correlation(None, None, None, 0)
    value, resampled = _point_and_resamples(_counts(len(values), seed) @ values / len(values))
    return _with_interval(value, resampled, len(values))


def point_correlation(coefficient: Coefficient, x: FloatVector, y: FloatVector) -> float | None:
    """Return the coefficient without an interval; None where it is undefined."""
    if len(x) < MIN_POINTS or not _varies(x) or not _varies(y):
        return None
    return float(coefficient(x, y, np.ones((1, len(x))))[0])


def pearson(x: FloatVector, y: FloatVector, counts: DrawCounts) -> FloatVector:
    """Return Pearson's r, the linear correlation, per resample."""
    return _moment_correlation(_standardised(x), _standardised(y), counts)


def spearman(x: FloatVector, y: FloatVector, counts: DrawCounts) -> FloatVector:
    """Return Spearman's rho per resample: Pearson's r of the ranks; ties have their mean rank."""
    return _ratio(*_moments(_centred_ranks(x, counts), _centred_ranks(y, counts), counts))


def kendall(x: FloatVector, y: FloatVector, counts: DrawCounts) -> FloatVector:
    """Return Kendall's tau-b per resample.

    It is the number of concordant pairs minus that of discordant pairs, over the geometric mean of
    the numbers of pairs untied in x and in y. A point drawn twice is a tied pair.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    agree = _signs(x) * _signs(y)
    drawn = counts.astype(np.float32)  # whole numbers far below 2^24: exact, and twice as fast
    concordance = ((drawn @ agree) * counts).sum(1)
    return _ratio(concordance, _untied(x, counts), _untied(y, counts))


COEFFICIENTS: dict[str, Coefficient] = {
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
}


def _counts(points: int, seed: int) -> DrawCounts:
    """Return (1 + RESAMPLES, points): all points once, then the bootstrap resamples."""
    drawn = np.random.default_rng(seed).multinomial(
        points, np.full(points, 1 / points), size=RESAMPLES
    )
    return np.vstack([np.ones(points), drawn])


def _point_and_resamples(values: FloatVector) -> tuple[float, FloatVector]:
    return float(values[0]), values[1:]


def _with_interval(value: float, resampled: FloatVector, count: int) -> Correlation:
    low, high = percentile_interval(value, resampled)
    return Correlation(value, low, high, count)


def _varies(values: FloatVector) -> bool:
    return bool(values.min() != values.max())


def _standardised(values: FloatVector) -> FloatVector:
    """Return the values centred and at most 1 in size, so that squares do not overflow."""
    scaled = values / np.abs(values).max()
    centred = scaled - scaled.mean()
    return np.asarray(centred / np.abs(centred).max())


def _moment_correlation(x: FloatVector, y: FloatVector, counts: DrawCounts) -> FloatVector:
    """Return the correlation of each resample from its first and second moments."""
    draws = counts.sum(1)
    mean_x, mean_y = counts @ x / draws, counts @ y / draws
    square_x, square_y = counts @ x**2 / draws, counts @ y**2 / draws
    covariance = counts @ (x * y) / draws - mean_x * mean_y
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    variance_x[variance_x <= ROUNDING_VARIANCE * square_x] = 0
    variance_y[variance_y <= ROUNDING_VARIANCE * square_y] = 0
    return _ratio(covariance, variance_x, variance_y)


def _moments(
    x: DrawCounts, y: DrawCounts, counts: DrawCounts
) -> tuple[FloatVector, FloatVector, FloatVector]:
    """Return each resample's sums of xy, xx and yy; x and y are (resamples, points), centred."""
    return (x * y * counts).sum(1), (x * x * counts).sum(1), (y * y * counts).sum(1)


def _ratio(cross: FloatVector, own_x: FloatVector, own_y: FloatVector) -> FloatVector:
    """Return cross / sqrt(own_x own_y), clipped to [-1, 1]; NaN where x or y is constant."""
    values = np.full(len(cross), np.nan)
    varying = (own_x > 0) & (own_y > 0)
    size = np.sqrt(own_x[varying]) * np.sqrt(own_y[varying])
    values[varying] = np.clip(cross[varying] / size, -1, 1)
    return values


def _centred_ranks(values: FloatVector, counts: DrawCounts) -> DrawCounts:
    """Return (resamples, points): each point's rank in each resample minus the mean rank.

    That is half the draws below the point minus half the draws above it: an exact multiple of 1/2.
    """
    group, drawn = _ties(values, counts)
    below = drawn.cumsum(1) - drawn
    return np.asarray((below + (drawn - counts.sum(1, keepdims=True)) / 2)[:, group])


def _untied(values: FloatVector, counts: DrawCounts) -> FloatVector:
    """Return twice the number of pairs of draws with different values, per resample."""
    _, drawn = _ties(values, counts)
    return np.asarray(counts.sum(1) ** 2 - (drawn**2).sum(1))


def _ties(values: FloatVector, counts: DrawCounts) -> tuple[NDArray[np.intp], DrawCounts]:
    """Return each point's group of equal values, and the (resamples, groups) draws of each."""
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(distinct)))
    return group, np.add.reduceat(counts[:, order], starts, axis=1)


def _signs(values: FloatVector) -> NDArray[np.float32]:
    """Return (points, points): 1, 0 or -1 as the row's value is greater, equal or less."""
    return np.sign(values[:, None] - values[None, :]).astype(np.float32)
