"""Fronts and hypervolume of two objectives: the first is minimised, the second maximised.

`dominates` and `nondominated_indices` take any number of objectives, all to be minimised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = Sequence[tuple[float, float]] | NDArray[np.float64]


def front_indices(points: Points) -> list[int]:
    """Return the indices of the non-dominated points, by rising first objective.

    Of equal points only the first is returned.

    A point dominates another if it is at least as good in both objectives and better in one.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    front: list[int] = []
    best = -np.inf
    for index in order:
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether one point is at least as small in all objectives, and smaller in one."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def nondominated_indices(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other dominates, in lexical order.

    Of equal points only the first is returned. In lexical order no point dominates an earlier one,
    so each is compared with the front of the earlier points only.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):
        values = points[index]
        if not any(_covers(points[k], values) for k in front):
            front.append(index)
    return front


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def hypervolume(points: Points, reference: tuple[float, float]) -> float:
    """Return the area that the points dominate, up to the reference.

    `reference` is the worst corner: the highest cost and the lowest gain that count.
    """
    worst_cost, worst_gain = reference
    inside = [(c, g) for c, g in points if c < worst_cost and g > worst_gain]
    area, floor = 0.0, worst_gain
    for index in front_indices(inside):
        cost, gain = inside[index]
        area += (worst_cost - cost) * (gain - floor)
        floor = gain
    return area


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return at most `most` of the indices 0 to count - 1, evenly spaced, both ends included."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})
