"""The bootstrap: points drawn again with replacement, and the interval that the draws give.

A draw is a row of counts, how often each point is in it. So the scores of many draws are matrix
products, and merged and unmerged networks are compared on the same draws. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Counts = NDArray[np.float64]
"""(draws, points): how often each point was drawn; each row sums to the number of points."""

LEVEL = 0.95
DRAWS = 1000
AT_ONCE = 50
"""Draws in one table: a thousand of many thousand points would fill the memory."""


def draws(points: int, seed: int | Sequence[int]) -> Iterator[Counts]:
    """`DRAWS` draws, in tables of (`AT_ONCE`, points); the same for the same seed and points."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS // AT_ONCE):
        drawn = [np.bincount(rng.integers(points, size=points), minlength=points)
                 for _ in range(AT_ONCE)]  # fmt: skip
        yield np.array(drawn, dtype=np.float64)


def interval(value: float, drawn: Vector) -> tuple[float, float]:
    """The percentile interval of the draws in which the value is defined (is no NaN).

    Widened to hold the value itself: where the bootstrap is biased it may lie outside.
    """
    defined = drawn[np.isfinite(drawn)]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail]) if len(defined) else (value, value)
    return min(float(low), value), max(float(high), value)
