"""How closely two rows of numbers go together, and how sure that is; numpy only.

Every coefficient takes resamples as counts: how often each point was drawn. A resample is then a
row of a matrix, and thousands of them cost a few matrix products instead of thousands of loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from search.evaluation.bootstrap import Counts, Vector, interval

Coefficient = Callable[[Vector, Vector, Counts], Vector]
"""(points,) and (points,) -> one value per resample, NaN where either row does not vary in it."""

RESAMPLES = 2000
SMALLEST = 3
"""Any two points lie on a line: fewer than this many say nothing."""
ROUNDING = 1e-12
"""A variance below this part of the second moment is what rounding leaves of none."""


@dataclass(frozen=True)
class Correlation:
    """A coefficient with its bootstrap interval; all three None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    count: int
    """How many points it rests on."""

    def __post_init__(self) -> None:
        known = [number for number in (self.low, self.value, self.high) if number is not None]
        if len(known) not in (0, 3):
            raise ValueError(f"{self}: either all three numbers are known or none is")
        if not all(isfinite(number) for number in known) or known != sorted(known):
            raise ValueError(f"{self}: the value must be finite and lie within its interval")


def correlation(coefficient: Coefficient, x: Vector, y: Vector, seed: int) -> Correlation:
    """The coefficient of (points,) and (points,), with a percentile interval over the points.

    The same seed and number of points give the same resamples, so several guides are compared on
    the same ones. Not defined for fewer than `SMALLEST` points, or where a row is constant.
    """
    if len(x) < SMALLEST or not _varies(x) or not _varies(y):
        return Correlation(None, None, None, len(x))
    value, resampled = _split(coefficient(x, y, _counts(len(x), seed)))
    return _with_interval(value, resampled, len(x))


def mean_correlation(
    coefficient: Coefficient, groups: Sequence[tuple[Vector, Vector]], seed: int
) -> Correlation:
    """The mean of the coefficient over groups of points; the interval resamples whole groups.

    Groups in which the coefficient is not defined are left out; `count` says how many are in.
    """
    known = [correlation_alone(coefficient, x, y) for x, y in groups]
    values = np.array([value for value in known if value is not None])
    if not len(values):
        return Correlation(None, None, None, 0)
    value, resampled = _split(_counts(len(values), seed) @ values / len(values))
    return _with_interval(value, resampled, len(values))


def correlation_alone(coefficient: Coefficient, x: Vector, y: Vector) -> float | None:
    """The coefficient without an interval; None where it is not defined."""
    if len(x) < SMALLEST or not _varies(x) or not _varies(y):
        return None
    return float(coefficient(x, y, np.ones((1, len(x))))[0])


def pearson(x: Vector, y: Vector, counts: Counts) -> Vector:
    """Pearson's r: how near the points lie to a straight line."""
    return _moment_correlation(_standardised(x), _standardised(y), counts)


def spearman(x: Vector, y: Vector, counts: Counts) -> Vector:
    """Spearman's rho: Pearson's r of the ranks, ties at the middle of the places they take up."""
    return _ratio(*_moments(_centred_ranks(x, counts), _centred_ranks(y, counts), counts))


def kendall(x: Vector, y: Vector, counts: Counts) -> Vector:
    """Kendall's tau-b: pairs in the same order less pairs in the other, over the untied pairs.

    Source: Kendall 1945. A point drawn twice makes a tied pair, as two equal points do.
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


def _counts(points: int, seed: int) -> Counts:
    """The points as they are in the first row, then the bootstrap's resamples of them."""
    drawn = np.random.default_rng(seed).multinomial(
        points, np.full(points, 1 / points), size=RESAMPLES
    )
    return np.vstack([np.ones(points), drawn])


def _split(values: Vector) -> tuple[float, Vector]:
    return float(values[0]), values[1:]


def _with_interval(value: float, resampled: Vector, count: int) -> Correlation:
    low, high = interval(value, resampled)
    return Correlation(value, low, high, count)


def _varies(values: Vector) -> bool:
    return bool(values.min() != values.max())


def _standardised(values: Vector) -> Vector:
    """Centred and at most 1 in size, so that no sum of squares over- or underflows."""
    scaled = values / np.abs(values).max()
    centred = scaled - scaled.mean()
    return np.asarray(centred / np.abs(centred).max())


def _moment_correlation(x: Vector, y: Vector, counts: Counts) -> Vector:
    """Correlation of each resample, from its moments about the means of all points."""
    draws = counts.sum(1)
    mean_x, mean_y = counts @ x / draws, counts @ y / draws
    square_x, square_y = counts @ x**2 / draws, counts @ y**2 / draws
    covariance = counts @ (x * y) / draws - mean_x * mean_y
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    variance_x[variance_x <= ROUNDING * square_x] = 0
    variance_y[variance_y <= ROUNDING * square_y] = 0
    return _ratio(covariance, variance_x, variance_y)


def _moments(x: Counts, y: Counts, counts: Counts) -> tuple[Vector, Vector, Vector]:
    """Sums of xy, xx and yy of each resample; x and y are (resamples, points) and centred."""
    return (x * y * counts).sum(1), (x * x * counts).sum(1), (y * y * counts).sum(1)


def _ratio(cross: Vector, own_x: Vector, own_y: Vector) -> Vector:
    """cross / sqrt(own_x own_y) within -1 and 1; NaN where either row does not vary."""
    values = np.full(len(cross), np.nan)
    varying = (own_x > 0) & (own_y > 0)
    size = np.sqrt(own_x[varying]) * np.sqrt(own_y[varying])
    values[varying] = np.clip(cross[varying] / size, -1, 1)
    return values


def _centred_ranks(values: Vector, counts: Counts) -> Counts:
    """(resamples, points): each point's rank in each resample, less the mean rank.

    Half the draws below it, less half the draws above it: whole or half numbers, exact.
    """
    group, drawn = _ties(values, counts)
    below = drawn.cumsum(1) - drawn
    return np.asarray((below + (drawn - counts.sum(1, keepdims=True)) / 2)[:, group])


def _untied(values: Vector, counts: Counts) -> Vector:
    """Twice the number of pairs of draws that differ, in each resample."""
    _, drawn = _ties(values, counts)
    return np.asarray(counts.sum(1) ** 2 - (drawn**2).sum(1))


def _ties(values: Vector, counts: Counts) -> tuple[NDArray[np.intp], Counts]:
    """Each point's group of equal values, in rising order; draws of each group, per resample."""
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(distinct)))
    return group, np.add.reduceat(counts[:, order], starts, axis=1)


def _signs(values: Vector) -> NDArray[np.float32]:
    """(points, points): whether the one is greater, equal or less than the other."""
    return np.sign(values[:, None] - values[None, :]).astype(np.float32)
