"""Fronts and hypervolume of two objectives: the first is minimised, the second maximised.

`dominates` and `nondominated` take any number of objectives, all to be minimised.
"""

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


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is at least as small in all objectives and smaller in one."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def nondominated(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates, in lexical order; of equal ones the first.

    In lexical order no point dominates one before it, so each is held against those kept.
    """
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):
        values = points[index]
        if not any(_covers(points[k], values) for k in kept):
            kept.append(index)
    return kept


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


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
