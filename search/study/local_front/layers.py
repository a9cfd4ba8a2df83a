"""Non-dominated layers of very many points, and an order that covers a front early."""

from __future__ import annotations

import numpy as np

from search.study.exact.segments import Bools, Floats, Ints

BLOCK = 1_024
"""Points that are compared together."""


def layers(points: Floats, count: int) -> list[Ints]:
    """Return the indices of at most `count` layers of points, (objectives, n).

    The first layer holds the points that no other dominates, the second those that only points of
    the first dominate, and so on. All objectives are minimised. Of equal points the first comes
    in an earlier layer than the second.
    """
    remaining, found = np.arange(points.shape[1]), list[Ints]()
    while len(remaining) and len(found) < count:
        layer = remaining[nondominated(points[:, remaining])]
        found.append(layer)
        remaining = np.setdiff1d(remaining, layer, assume_unique=True)
    return found


def nondominated(points: Floats) -> Ints:
    """Return the indices of the points, (objectives, n), that no other one dominates.

    They are in lexical order. Of equal points only the first is returned.
    """
    order = np.lexsort(points[::-1])
    if len(points) > 2:
        return order[_survivors(points[:, order])]
    best = np.minimum.accumulate(points[1, order])
    first: Ints = order[np.append(True, best[1:] < best[:-1])[: len(order)]]
    return first


def _survivors(ordered: Floats) -> Ints:
    """Return the indices of the non-dominated ones of points in lexical order.

    In lexical order no point dominates an earlier one.
    """
    front = np.zeros(0, np.intp)
    for start in range(0, ordered.shape[1], BLOCK):
        block = np.arange(start, min(start + BLOCK, ordered.shape[1]))
        block = block[~_covered(ordered[:, block], ordered[:, front]).any(axis=1)]
        # A point that another one of the block dominates need not be left out before: what it
        # dominates, the other one dominates too.
        among = np.tril(_covered(ordered[:, block], ordered[:, block]), k=-1)
        front = np.append(front, block[~among.any(axis=1)])
    return front


def _covered(points: Floats, front: Floats) -> Bools:
    """Return (n, m): which of m points of a front are as good as each of n points.

    Both are (objectives, number).
    """
    covered = np.ones((points.shape[1], front.shape[1]), np.bool_)
    for values, others in zip(points, front, strict=True):
        covered &= others[None, :] <= values[:, None]
    return covered


def covering_order(points: Floats, most: int) -> Ints:
    """Return the indices of at most `most` points, (objectives, n), so that any prefix covers all.

    The point that is best in the last objective comes first, and then each time the point that is
    furthest from all before (Gonzalez 1985). Objectives are scaled to the range of the points.
    """
    if not points.shape[1]:
        return np.zeros(0, np.intp)
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    order = [int(np.lexsort(points)[0])]
    distances = np.full(points.shape[1], np.inf)
    while len(order) < min(most, points.shape[1]):
        gaps = np.abs(scaled - scaled[:, order[-1:]]).max(axis=0)
        distances = np.minimum(distances, gaps)
        distances[order] = -1.0
        order.append(int(distances.argmax()))
    return np.array(order, np.intp)
