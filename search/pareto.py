"""Fronts and hypervolume of two objectives: the first is minimised, the second maximised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = Sequence[tuple[float, float]] | NDArray[np.float64]


def front(points: Points) -> list[int]:
    """Indices of the non-dominated points, by rising first objective; of equal points the first.

    A point dominates another if it is at least as good in both objectives and better in one.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    kept: list[int] = []
    best = -np.inf
    for index in order:
        if points[index][1] > best:
            kept.append(index)
            best = points[index][1]
    return kept


def hypervolume(points: Points, reference: tuple[float, float]) -> float:
    """Area dominated by the points and bounded by the reference (its worst corner)."""
    worst_cost, worst_gain = reference
    inside = [(c, g) for c, g in points if c < worst_cost and g > worst_gain]
    area, floor = 0.0, worst_gain
    for index in front(inside):
        cost, gain = inside[index]
        area += (worst_cost - cost) * (gain - floor)
        floor = gain
    return area


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 to count-1, evenly spaced, both ends included."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})
