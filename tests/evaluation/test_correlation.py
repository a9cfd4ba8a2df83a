"""Correlation coefficients obey their laws and equal reference implementations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from search.evaluation.correlation import (
    COEFFICIENTS,
    MIN_POINTS,
    Coefficient,
    Correlation,
    compute_correlation,
    compute_mean_correlation,
    kendall,
    pearson,
    point_correlation,
    spearman,
)
from search.utils.arrays import FloatVector

Row = list[int]
Expected = Callable[[Sequence[float], Sequence[float]], float | None]
EVERY = pytest.mark.parametrize("name", COEFFICIENTS)


@st.composite
def rows(draw: st.DrawFn, smallest: int = MIN_POINTS, largest: int = 12) -> tuple[Row, Row]:
    """Draw two rows of integers with many ties, neither constant."""
    size = draw(st.integers(smallest, largest))
    row = st.lists(st.integers(-4, 4), min_size=size, max_size=size)
    x, y = draw(row), draw(row)
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    return x, y


def vector(values: Sequence[float]) -> FloatVector:
    return np.array(values, dtype=np.float64)


def value(coefficient: Coefficient, x: Sequence[float], y: Sequence[float]) -> float:
    estimate = point_correlation(coefficient, vector(x), vector(y))
    assert estimate is not None
    return estimate


# Expected implementations, straight from the definitions.


def slow_pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return statistics.correlation(x, y)


def slow_ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < one for other in values) + (sum(other == one for other in values) + 1) / 2
        for one in values
    ]


def slow_spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    return slow_pearson(slow_ranks(x), slow_ranks(y))


def slow_kendall(x: Sequence[float], y: Sequence[float]) -> float | None:
    score = untied_x = untied_y = 0
    for i, j in combinations(range(len(x)), 2):
        dx = (x[i] > x[j]) - (x[i] < x[j])
        dy = (y[i] > y[j]) - (y[i] < y[j])
        score += dx * dy
        untied_x += dx != 0
        untied_y += dy != 0
    return score / math.sqrt(untied_x * untied_y) if untied_x and untied_y else None


REFERENCES: dict[str, Expected] = {
    "pearson": slow_pearson,
    "spearman": slow_spearman,
    "kendall": slow_kendall,
}


def test_every_coefficient_has_a_reference_implementation() -> None:
    assert list(REFERENCES) == list(COEFFICIENTS)


@EVERY
@given(rows())
def test_coefficients_equal_their_reference(name: str, both: tuple[Row, Row]) -> None:
    x, y = both
    assert value(COEFFICIENTS[name], x, y) == pytest.approx(REFERENCES[name](x, y), abs=1e-12)


@EVERY
@given(rows(), st.integers(0, 10**6))
def test_resamples_equal_the_reference_on_the_drawn_points(
    name: str, both: tuple[Row, Row], seed: int
) -> None:
    x, y = both
    counts = np.random.default_rng(seed).multinomial(len(x), [1 / len(x)] * len(x), size=6)
    resamples = COEFFICIENTS[name](vector(x), vector(y), counts.astype(np.float64))
    for point_counts, number in zip(counts, resamples, strict=True):
        expected = REFERENCES[name](
            [one for one, times in zip(x, point_counts, strict=True) for _ in range(times)],
            [one for one, times in zip(y, point_counts, strict=True) for _ in range(times)],
        )
        if expected is None:
            assert math.isnan(number)
        else:
            assert number == pytest.approx(expected, abs=1e-9)


@given(rows(), st.floats(0.01, 100), st.floats(-100, 100))
def test_pearson_is_invariant_under_affine_maps(
    both: tuple[Row, Row], scale: float, shift: float
) -> None:
    x, y = both
    mapped = [scale * one + shift for one in x]
    assert value(pearson, mapped, y) == pytest.approx(value(pearson, x, y), abs=1e-9)


@pytest.mark.parametrize("coefficient", [spearman, kendall])
@given(rows())
def test_rank_coefficients_are_invariant_under_increasing_maps(
    coefficient: Coefficient, both: tuple[Row, Row]
) -> None:
    x, y = both
    assert value(coefficient, [math.exp(5 * one) for one in x], y) == value(coefficient, x, y)


@EVERY
@given(rows())
def test_negating_one_row_negates_the_coefficient(name: str, both: tuple[Row, Row]) -> None:
    x, y = both
    turned = value(COEFFICIENTS[name], [-one for one in x], y)
    assert turned == pytest.approx(-value(COEFFICIENTS[name], x, y), abs=1e-12)


@EVERY
@given(rows())
def test_coefficients_are_symmetric_and_between_minus_1_and_1(
    name: str, both: tuple[Row, Row]
) -> None:
    x, y = both
    estimate = value(COEFFICIENTS[name], x, y)
    assert -1 <= estimate <= 1
    assert estimate == pytest.approx(value(COEFFICIENTS[name], y, x), abs=1e-12)
    assert value(COEFFICIENTS[name], x, x) == pytest.approx(1, abs=1e-12)


@EVERY
@pytest.mark.parametrize("size", [1e-300, 1e-9, 1e9, 1e300])
def test_coefficients_do_not_depend_on_scale(name: str, size: float) -> None:
    x, y = [1.0, 2.0, 4.0, 3.0], [1.0, 3.0, 4.0, 2.0]
    expected = value(COEFFICIENTS[name], x, y)
    estimate = value(COEFFICIENTS[name], [size * one for one in x], y)
    assert estimate == pytest.approx(expected, abs=1e-12)


def test_coefficients_match_closed_forms() -> None:
    # a parabola about its axis has no linear part
    assert value(pearson, [-1, 0, 1], [1, 0, 1]) == pytest.approx(0, abs=1e-15)
    # one swap of neighbours among n without ties
    n = 7
    swapped = [2, 1, *range(3, n + 1)]
    assert value(kendall, range(1, n + 1), swapped) == pytest.approx(1 - 4 / (n * (n - 1)))
    assert value(spearman, range(1, n + 1), swapped) == pytest.approx(
        1 - 6 * 2 / (n * (n * n - 1))
    )


@EVERY
def test_constant_rows_and_too_few_points_have_no_correlation(name: str) -> None:
    rising = vector([0.1, 0.2, 0.3])
    for x in (vector([0.1, 0.1, 0.1]), vector([0, 0, 0])):
        for one, other in ((x, rising), (rising, x), (x, x)):
            correlation = compute_correlation(COEFFICIENTS[name], one, other, 0)
            assert correlation == Correlation(None, None, None, 3)
    for count in (0, 1, 2):
        few = vector(range(count))
        assert compute_correlation(COEFFICIENTS[name], few, few, 0).value is None


@EVERY
@given(rows(), st.integers(0, 10**6))
def test_the_interval_holds_the_estimate(name: str, both: tuple[Row, Row], seed: int) -> None:
    x, y = both
    correlation = compute_correlation(COEFFICIENTS[name], vector(x), vector(y), seed)
    assert correlation.value == pytest.approx(value(COEFFICIENTS[name], x, y), abs=1e-12)
    assert (
        correlation.low is not None
        and correlation.value is not None
        and correlation.high is not None
    )
    assert correlation.count == len(x)
    assert -1 <= correlation.low <= correlation.value <= correlation.high <= 1


@EVERY
def test_the_interval_shrinks_with_the_number_of_points(name: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    widths = []
    for times in (1, 4, 16):
        correlation = compute_correlation(
            COEFFICIENTS[name], np.tile(x, times), np.tile(y, times), 0
        )
        assert correlation.low is not None and correlation.high is not None
        widths.append(correlation.high - correlation.low)
    # four times the points, half the width
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.25)


def test_the_interval_covers_the_true_value_about_as_often_as_stated() -> None:
    rng, true, covered = np.random.default_rng(2), 0.6, 0
    for seed in range(200):
        x, noise = rng.normal(size=(2, 60))
        y = true * x + math.sqrt(1 - true**2) * noise
        correlation = compute_correlation(pearson, x, y, seed)
        assert correlation.low is not None and correlation.high is not None
        covered += correlation.low <= true <= correlation.high
    assert 0.88 <= covered / 200 <= 0.99


@EVERY
def test_a_perfect_correlation_has_an_interval_of_width_0(name: str) -> None:
    x = vector([0.3, 1.7, 2.2, 5.1, 8.0])
    correlation = compute_correlation(COEFFICIENTS[name], x, 3 * x - 1, 0)
    assert [correlation.value, correlation.low, correlation.high] == pytest.approx(
        [1, 1, 1], abs=1e-9
    )


def test_the_same_seed_gives_the_same_interval() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 30))
    assert compute_correlation(pearson, x, y, 4) == compute_correlation(pearson, x, y, 4)
    assert compute_correlation(pearson, x, y, 4) != compute_correlation(pearson, x, y, 5)


@EVERY
@given(st.lists(rows(), min_size=1, max_size=5))
def test_the_mean_over_groups_is_the_mean_of_their_coefficients(
    name: str, groups: list[tuple[Row, Row]]
) -> None:
    coefficient = COEFFICIENTS[name]
    pairs = [(vector(x), vector(y)) for x, y in groups]
    constant = (vector([1, 1, 1]), vector([1, 2, 3]))
    correlation = compute_mean_correlation(coefficient, [*pairs, constant], 0)
    values = [value(coefficient, x, y) for x, y in groups]
    assert correlation.value == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert correlation.count == len(groups)
    assert correlation.low is not None and correlation.high is not None
    assert min(values) - 1e-12 <= correlation.low <= correlation.high <= max(values) + 1e-12


def test_the_mean_over_no_group_is_undefined() -> None:
    assert compute_mean_correlation(pearson, [], 0) == Correlation(None, None, None, 0)
    constant = (vector([1, 1, 1]), vector([1, 2, 3]))
    assert compute_mean_correlation(pearson, [constant], 0) == Correlation(None, None, None, 0)


@pytest.mark.parametrize(
    "numbers", [(0.5, 0.6, 0.7), (0.5, None, 0.7), (None, 0.1, 0.2), (math.nan, -1.0, 1.0)]
)
def test_a_correlation_outside_its_interval_is_refused(
    numbers: tuple[float | None, float | None, float | None],
) -> None:
    estimate, low, high = numbers
    with pytest.raises(ValueError, match="Correlation"):
        Correlation(estimate, low, high, count=3)
