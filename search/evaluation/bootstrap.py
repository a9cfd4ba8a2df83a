"""The bootstrap: draws of points with replacement, and percentile intervals over the draws.

A draw is a row of counts that says how often it holds each point. The scores of many draws are
then matrix products, and merged and unmerged networks are compared on the same draws.

Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from search.utils.arrays import FloatVector

DrawCounts = NDArray[np.float64]
"""(draws, points): how often each draw holds each point; a row sums to the number of points."""

CONFIDENCE_LEVEL = 0.95
BOOTSTRAP_DRAWS = 1000
DRAWS_PER_TABLE = 50
"""Draws computed together: all draws of many thousand points would fill the memory."""


def bootstrap_draws(points: int, seed: int | Sequence[int]) -> Iterator[DrawCounts]:
    """Yield `BOOTSTRAP_DRAWS` draws in tables of shape (`DRAWS_PER_TABLE`, points).

    The same seed and number of points give the same draws.
    """
    rng = np.random.default_rng(seed)
    for _ in range(BOOTSTRAP_DRAWS // DRAWS_PER_TABLE):
        table = [np.bincount(rng.integers(points, size=points), minlength=points)
                 for _ in range(DRAWS_PER_TABLE)]  # fmt: skip
        yield np.array(table, dtype=np.float64)


def percentile_interval(
    value: float, drawn: FloatVector, level: float = CONFIDENCE_LEVEL
) -> tuple[float, float]:
    """Return the percentile interval of the (draws,) values `drawn`, ignoring NaN.

    It leaves out equally many draws on both sides, and is widened to hold `value`, which may lie
    outside where the bootstrap is biased. Without a finite draw it is (value, value).
    """
    defined = drawn[np.isfinite(drawn)]
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail]) if len(defined) else (value, value)
    return min(float(low), value), max(float(high), value)
