"""Fronts and hypervolumes: closed forms, and slow references over random points.

Cost is minimised and gain is maximised. Of these points:

    gain  3 |        c   d        a (1, 1)   b (1, 2)   c (2, 3)   d (3, 3)   e (3, 1)
          2 |    b                front: b, c      a < b   d < c   e < everything but d
          1 |    a       e
            +------------- cost
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.study.pareto import evenly_spaced, front_indices, hypervolume

TABLE = [(1.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 3.0), (3.0, 1.0)]
# Small whole numbers, so that ties and duplicates are common.
points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def slow_hypervolume(listed: list[tuple[float, float]], cost: int, gain: int) -> int:
    """Count the unit squares between the reference point and the points."""
    return sum(
        any(c <= x and g >= y + 1 for c, g in listed)
        for x in range(-1, cost)
        for y in range(gain, 8)
    )


def test_the_front_of_the_table() -> None:
    assert front_indices(TABLE) == [1, 2]


def test_no_points_have_no_front_and_no_volume() -> None:
    assert front_indices([]) == [] and hypervolume([], (1.0, 0.0)) == 0


def test_one_point_is_its_own_front_and_a_rectangle() -> None:
    assert front_indices([(2.0, 5.0)]) == [0]
    assert hypervolume([(2.0, 5.0)], (10.0, 1.0)) == 32


def test_the_first_of_equal_points_is_on_the_front() -> None:
    assert front_indices([(2.0, 2.0), (1.0, 1.0), (1.0, 1.0), (2.0, 2.0)]) == [1, 0]


def test_a_duplicate_adds_no_volume() -> None:
    once = hypervolume(TABLE, (4.0, 0.0))
    assert hypervolume([*TABLE, *TABLE], (4.0, 0.0)) == once == 3 * 2 + 2 * 1


def test_a_staircase_is_the_sum_of_its_steps() -> None:
    n = 20
    stairs = [(k / n, (k + 1) / n) for k in range(n)]
    assert hypervolume(stairs, (1.0, 0.0)) == pytest.approx((n + 1) / (2 * n))


def test_points_on_or_beyond_the_reference_add_nothing() -> None:
    outside = [(4.0, 9.0), (5.0, 9.0), (1.0, 0.0), (1.0, -3.0)]
    assert hypervolume(outside, (4.0, 0.0)) == 0
    assert hypervolume([*TABLE, *outside], (4.0, 0.0)) == hypervolume(TABLE, (4.0, 0.0))


def test_arrays_are_points_too() -> None:
    assert front_indices(np.array(TABLE)) == front_indices(TABLE)
    assert hypervolume(np.array(TABLE), (4.0, 0.0)) == hypervolume(TABLE, (4.0, 0.0))


@given(points)
def test_the_front_has_each_nondominated_point_once_by_rising_cost(
    listed: list[tuple[float, float]],
) -> None:
    front = [listed[i] for i in front_indices(listed)]
    slow = {p for p in listed if not any(dominates(other, p) for other in listed)}
    assert front == sorted(slow)


@given(points)
def test_a_front_rises_in_both_objectives(listed: list[tuple[float, float]]) -> None:
    front = [listed[i] for i in front_indices(listed)]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(front))


@given(points, st.integers(0, 7), st.integers(-1, 5))
def test_hypervolume_equals_the_counted_squares(
    listed: list[tuple[float, float]], cost: int, gain: int
) -> None:
    inside = [(c, g) for c, g in listed if c < cost and g > gain]
    assert hypervolume(listed, (cost, gain)) == slow_hypervolume(inside, cost, gain)


@given(points, st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_one_more_point_never_reduces_the_hypervolume(
    listed: list[tuple[float, float]], one: tuple[float, float]
) -> None:
    assert hypervolume([*listed, one], (7, -1)) >= hypervolume(listed, (7, -1))


@given(st.integers(0, 60), st.integers(1, 12))
def test_evenly_spaced_indices_have_both_ends_and_even_steps(count: int, most: int) -> None:
    indices = evenly_spaced(count, most)
    assert len(indices) == min(count, most) and indices == sorted(set(indices))
    if count:
        assert indices[-1] == count - 1 and (indices[0] == 0 or most == 1)
    steps = np.diff(indices)
    assert not len(steps) or steps.max() - steps.min() <= 1
