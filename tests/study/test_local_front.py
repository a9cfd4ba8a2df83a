"""The local front against enumeration, the exact front and the heuristic plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up_precisions import with_precision_profiles
from test_exact import (
    SMALL,
    every_nth_share,
    front_of,
    limits_of,
    predict_all,
    random_problem,
)
from tiny import MadeUpDeployment

from search.study.exact.branch_and_bound import exact_front
from search.study.local_front.layers import covering_order, layers, nondominated
from search.study.local_front.pareto_search import ParetoSearch, front_by, local_front
from search.study.local_front.valuation import Valuation
from search.study.local_front.valued_plans import column_keys
from search.study.objectives import EvaluatedPlan, PlanEvaluator, PredictedPlan
from search.study.pareto import dominates, hypervolume, nondominated_indices
from search.study.problem import Cost, Limits, Problem
from search.study.smallest_plan import smallest_plan
from search.study.warm_start import heuristic_plans
from spaces.liveness import canonical
from spaces.plan import SharePlan

COSTS: list[tuple[Cost, ...]] = [("bytes",), ("macs",), ("bytes", "macs")]


def seeds_of(problem: Problem) -> list[SharePlan]:
    smallest = smallest_plan(problem, PlanEvaluator(problem)).plan
    return [smallest, *heuristic_plans(problem)]


def every_kind(seed: int) -> list[Problem]:
    """Return problems of one space: with other costs, limits, rates and precision profiles."""
    plain = random_problem(seed)
    rates = {name: 1.0 + 3.0 * k for k, name in enumerate(plain.layouts)}
    return [
        *(replace(plain, limits=limits) for limits in limits_of(plain)),
        replace(plain, costs=("macs",), rates=rates),
        replace(plain, costs=("bytes", "macs"), limits=Limits(quality=0.5)),
        replace(with_precision_profiles(plain, seed), limits=Limits(quality=0.5)),
    ]


def volume(points: Sequence[tuple[float, float]], worst_cost: float) -> float:
    return hypervolume([(cost / worst_cost, quality) for cost, quality in points], (1.0, 0.0))


@pytest.mark.parametrize("seed", SMALL)
def test_every_plan_of_the_front_is_legal_within_the_limits_and_not_dominated(seed: int) -> None:
    for problem in every_kind(seed):
        evaluator, plans = PlanEvaluator(problem), local_front(problem, seeds_of(problem))
        values = [evaluator.evaluate(plan) for plan in plans]
        assert len(set(plans)) == len(plans)
        for plan, value in zip(plans, values, strict=True):
            assert canonical(plan, problem.layouts) == plan
            assert problem.space.decode(problem.space.encode(plan)) == plan
            assert problem.limits.allow(value.bytes, value.worst)
            assert not any(dominates(other.objectives, value.objectives) for other in values)


@pytest.mark.parametrize("seed", SMALL)
def test_every_feasible_starting_point_is_dominated_or_on_the_front(seed: int) -> None:
    for problem in every_kind(seed):
        evaluator, space = PlanEvaluator(problem), problem.space
        seeds = [space.decode(space.encode(p)) for p in (SharePlan(), *seeds_of(problem))]
        front = [evaluator.evaluate(plan) for plan in local_front(problem, seeds)]
        for value in map(evaluator.evaluate, seeds):
            if evaluator.is_feasible(value):
                assert any(is_as_good(other, value) for other in front)


def is_as_good(one: EvaluatedPlan, other: EvaluatedPlan) -> bool:
    """Compare two plans, but for rounding."""
    pairs = zip(one.objectives, other.objectives, strict=True)
    return all(a <= b + 1e-12 for a, b in pairs)


@pytest.mark.parametrize("seed", SMALL)
def test_the_front_of_a_small_space_is_the_exact_front(seed: int) -> None:
    for problem, limits, plans in small_spaces(seed):
        evaluator = PlanEvaluator(problem)
        found = map(evaluator.predict, local_front(problem, seeds_of(problem)))
        points = sorted((plan.bytes, plan.proxy) for plan in found)
        expected = front_of(plans, limits)
        assert [size for size, _ in points] == [size for size, _ in expected]
        assert [q for _, q in points] == pytest.approx([q for _, q in expected], abs=1e-12)


@pytest.mark.parametrize("seed", SMALL)
def test_a_valuation_at_other_qualities_leads_to_the_front_of_their_problem(seed: int) -> None:
    chance = np.random.default_rng(seed)
    for problem in every_kind(seed):
        valuation = Valuation(problem, problem.costs)
        some = {
            share: float(chance.uniform(-0.1, 1.1))
            for share in problem.quality_by_share
            if chance.random() < 0.7
        }
        expected = local_front(replace(problem, quality_by_share=some), seeds_of(problem))
        assert front_by(valuation.with_quality(some), seeds_of(problem)) == expected
        assert front_by(valuation, seeds_of(problem)) == local_front(problem, seeds_of(problem))


def test_the_search_finds_the_hypervolume_of_the_exact_front_of_small_spaces() -> None:
    """Of some very small spaces it misses a plan that no step leads to."""
    shares = []
    for seed in SMALL[::3]:
        for problem, limits, plans in small_spaces(seed):
            budget = 1.01 * min(limits.bytes, PlanEvaluator(problem).costs.unmerged_bytes)
            search = ParetoSearch(Valuation(problem), seeds_of(problem))
            search.run()
            found = volume([(p.bytes, p.proxy) for p in search.front()], budget)
            exact = volume(front_of(plans, limits), budget)
            shares.append(found / exact if exact else 1.0)
    assert np.mean(np.array(shares) >= 0.99) > 0.97 and min(shares) > 0.9


def small_spaces(seed: int) -> Iterator[tuple[Problem, Limits, list[PredictedPlan]]]:
    """Yield problems with each of several limits, and all their plans."""
    plain = random_problem(seed)
    for problem in (plain, with_precision_profiles(every_nth_share(plain, 2), seed)):
        plans = predict_all(problem)
        for limits in limits_of(problem):
            yield replace(problem, limits=limits), limits, plans


@pytest.mark.parametrize("rates", [False, True])
@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("seed", range(0, 24, 4))
def test_the_front_of_other_costs_is_that_of_all_plans(
    seed: int, costs: tuple[Cost, ...], rates: bool
) -> None:
    problem = replace(random_problem(seed), costs=costs, limits=Limits(quality=0.4))
    if rates:
        problem = replace(problem, rates={n: 2.0 + k for k, n in enumerate(problem.layouts)})
    evaluator = PlanEvaluator(problem)
    values = [evaluator.evaluate(p.plan) for p in predict_all(problem)]
    points = [value.objectives for value in values if evaluator.is_feasible(value)]
    best = {points[k] for k in nondominated_indices(points)}
    plans = local_front(problem, seeds_of(problem))
    found = {evaluator.evaluate(plan).objectives for plan in plans}
    assert len(found) == len(best)
    for point in best:
        assert any(point == pytest.approx(other, abs=1e-9) for other in found)


@pytest.mark.parametrize("seed", range(3))
def test_the_front_of_a_large_space_is_close_to_the_exact_front(seed: int) -> None:
    problem = MadeUpDeployment({"a": 7, "b": 6, "c": 7, "det": 7}, {"det": (4, 6)}, seed)
    limited = problem.problem(0.5)
    assert limited.space.size > 10_000_000
    evaluator, budget = PlanEvaluator(limited), limited.limits.bytes
    exact = [(p.bytes, p.proxy) for p in exact_front(limited).front]
    plans = local_front(limited, seeds_of(limited))
    found = [(p.bytes, p.proxy) for p in map(evaluator.predict, plans)]
    assert volume(found, budget) >= 0.99 * volume(exact, budget)
    assert volume(found[:25], budget) >= 0.9 * volume(exact, budget)
    assert local_front(limited, seeds_of(limited)) == plans


def test_the_search_ends_at_its_limit_of_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "search.study.local_front.pareto_search"
    problem = MadeUpDeployment({"a": 6, "b": 6, "c": 6}).problem(0.6)
    seeds, examined, volumes = seeds_of(problem), [], []
    monkeypatch.setattr(f"{module}.PLANS_PER_STEP", 1)
    for most in (0, 300, 3_000, 10**9):
        search = ParetoSearch(Valuation(problem), seeds)
        search.run(most)
        examined.append(search.valuation.examined)
        front = [(p.bytes, p.proxy) for p in search.front()]
        volumes.append(volume(front, problem.limits.bytes))
    size = sum(len(options) for options in search.valuation.choices)
    assert examined[0] < 100 and all(
        most <= count < most + size + 100
        for most, count in zip((300, 3_000), examined[1:3], strict=True)
    )
    assert volumes == sorted(volumes) and examined[3] > examined[2]


def test_where_nothing_is_feasible_there_is_no_front() -> None:
    problem = replace(random_problem(5), limits=Limits(10))
    assert local_front(problem, []) == []
    assert local_front(replace(problem, costs=("latency", "bytes"), limits=Limits()), []) == []


def test_a_quality_floor_that_a_plan_just_meets_is_met() -> None:
    problem = random_problem(7)
    values = sorted(predict_all(problem), key=lambda plan: plan.bytes)
    for value in values[:: len(values) // 20]:
        at_floor = replace(problem, limits=Limits(quality=value.worst))
        front = local_front(at_floor, [value.plan])
        evaluator = PlanEvaluator(at_floor)
        assert min(evaluator.predict(plan).bytes for plan in front) <= value.bytes


# Layers and orders.


@given(arrays(np.float64, st.tuples(st.integers(2, 4), st.integers(0, 40)),
              elements=st.integers(0, 6).map(float)))  # fmt: skip
def test_a_layer_holds_what_only_the_layers_before_dominate(points: np.ndarray) -> None:
    remaining = [*range(points.shape[1])]
    for layer in layers(points, 3):
        rows = [tuple(points[:, k]) for k in remaining]
        assert layer.tolist() == [remaining[k] for k in nondominated_indices(rows)]
        remaining = [k for k in remaining if k not in layer]


def test_blocks_do_not_change_the_front_of_many_points(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).random((3, 500))
    whole = nondominated(points).tolist()
    monkeypatch.setattr("search.study.local_front.layers.BLOCK", 7)
    assert nondominated(points).tolist() == whole
    assert whole == nondominated_indices([tuple(point) for point in points.T])


@given(arrays(np.float64, st.tuples(st.just(2), st.integers(0, 30)),
              elements=st.floats(0, 9)), st.integers(1, 40))  # fmt: skip
def test_each_point_of_a_covering_order_is_the_furthest_from_those_before(
    points: np.ndarray, most: int
) -> None:
    order = covering_order(points, most).tolist()
    assert len(order) == len(set(order)) == min(most, points.shape[1])
    if order:
        assert points[1, order[0]] == points[1].min()
    spread = np.ptp(points, axis=1)[:, None] if order else 1.0
    scaled = points / np.where(spread > 0, spread, 1.0)
    for count in range(1, len(order)):
        gaps = [
            min(np.abs(scaled[:, k] - scaled[:, other]).max() for other in order[:count])
            for k in range(points.shape[1])
        ]
        assert gaps[order[count]] == pytest.approx(max(gaps), abs=1e-12)


def test_keys_of_different_columns_differ() -> None:
    columns = np.array(np.meshgrid(*[np.arange(-1, 9)] * 5)).reshape(5, -1)
    assert len(np.unique(column_keys(columns))) == columns.shape[1]
