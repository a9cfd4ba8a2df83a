"""The exact front against enumeration, on made-up deployments and on real networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from made_up_precisions import with_precision_profiles
from networks import LOW_RANK, ZooDeployment
from tiny import made_up_facts, made_up_similarity

from search.study.exact.bounds import ROUNDING, Bounds
from search.study.exact.branch_and_bound import TooLarge, exact_front
from search.study.exact.counting import count_plans
from search.study.exact.plan_table import PlanTable
from search.study.exact.segments import NO_SHARE
from search.study.objectives import PlanEvaluator, PredictedPlan
from search.study.pareto import front_indices
from search.study.precision.profiles import apply_profile
from search.study.problem import Limits, Problem
from spaces.consumers import Consumer, Consumers
from spaces.errors import BadPlan
from spaces.liveness import canonical, liveness
from spaces.model_facts import ModelFacts
from spaces.plan import HEAD, IDENTITY, LINEAR, AdapterSpec, SharePlan
from spaces.shares import enumerate_shares, find_pairs

FORMS: list[tuple[dict[str, int], dict[str, tuple[int, ...]]]] = [
    ({"a": 3, "b": 3}, {}),
    ({"a": 2, "b": 3, "c": 2}, {}),
    ({"a": 3, "det": 4}, {"det": (1, 2)}),
    ({"det": 3, "ted": 3}, {"det": (0, 2), "ted": (1, 2)}),
    ({"det": 4, "b": 3}, {"det": (0, 2), "b": (1,)}),
    ({"det": 4, "b": 2}, {"det": (0, 1, 3)}),
]
"""Models with one tap and several, next to each other, and with stages past the last."""
ADAPTERS = [
    (LINEAR,),
    (IDENTITY, LINEAR),
    (IDENTITY, LINEAR, AdapterSpec("linear", 2)),
    (IDENTITY,),
]
SMALL = range(24)
LARGE = {"a": 9, "det": 9}, {"det": (4, 6, 8)}


def with_random_consumers(facts: dict[str, ModelFacts], seed: int) -> dict[str, ModelFacts]:
    """Return the facts with tied tensors and random consumers, so that only some maps fold."""
    rng = np.random.default_rng([seed, 7])
    return {name: _with_random_consumers(fact, rng) for name, fact in facts.items()}


def _with_random_consumers(fact: ModelFacts, rng: np.random.Generator) -> ModelFacts:
    stages = fact.layout.stages
    tensors = {owner: dict(sizes) for owner, sizes in fact.tensors.items()}
    for k in range(int(rng.integers(3))):
        for owner in rng.choice([*stages, HEAD], 2, replace=False):
            tensors[str(owner)][f"{fact.layout.model}/tied{k}"] = 3000 * (k + 1)
    readers: dict[str, dict[str, Consumers]] = {
        stage: {after: _random_consumers(after, rng)} for stage, after in pairwise(stages)
    }
    for tap in fact.layout.taps:
        readers.setdefault(tap, {})[HEAD] = _random_consumers(HEAD, rng)
    return replace(
        fact,
        tensors=tensors,
        consumers={stage: readers.get(stage, {}) for stage in stages},
        stages=tuple(
            replace(stage, shape=(int(rng.choice([4, 8, 16, 64])), 4, 4)) for stage in fact.stages
        ),
    )


def _random_consumers(owner: str, rng: np.random.Generator) -> Consumers:
    kind = rng.integers(6)
    if kind == 0:
        return Consumers((), "the convolution is grouped or depthwise")
    if kind == 1 and owner != HEAD:
        return Consumers((), passes=True)
    outs = rng.integers(1, 60, size=int(rng.integers(1, 3)))
    return Consumers(tuple(Consumer(owner, f"conv{n}", int(n), 1, bool(n % 2), 9) for n in outs))


def problem_of(
    facts: dict[str, ModelFacts], seed: int, adapters: Sequence[AdapterSpec]
) -> Problem:
    shares = enumerate_shares(find_pairs(facts).legal, facts, adapters)
    return Problem(facts, made_up_similarity(shares, seed))


def random_problem(seed: int) -> Problem:
    """Return a small problem: 1 in 4 has no consumers, and 1 in 3 has only half of the shares."""
    stages, taps = FORMS[seed % len(FORMS)]
    facts = made_up_facts(stages, taps, seed)
    problem = problem_of(
        with_random_consumers(facts, seed) if seed % 4 else facts, seed, ADAPTERS[seed // 6 % 4]
    )
    if seed % 3 == 0:
        problem = every_nth_share(problem, 2)
    return problem if problem.space.size < 8_000 else every_nth_share(problem, 3)


def every_nth_share(problem: Problem, every: int) -> Problem:
    return replace(problem, quality_by_share=dict(list(problem.quality_by_share.items())[::every]))


def predict_all(problem: Problem) -> list[PredictedPlan]:
    """Predict every plan of the space once, with the search space, cost model and proxy."""
    choices, evaluator = problem.space.choices, PlanEvaluator(problem)
    plans = {
        problem.space.decode(dict(zip(choices, combination, strict=True)))
        for combination in product(*choices.values())
    }
    return [evaluator.predict(plan) for plan in plans]


def front_of(plans: Sequence[PredictedPlan], limits: Limits) -> list[tuple[int, float]]:
    points = [(p.bytes, p.proxy) for p in plans if limits.allow(p.bytes, p.worst)]
    return [points[i] for i in front_indices(points)]


def points(plans: Sequence[PredictedPlan]) -> list[tuple[int, float]]:
    return [(plan.bytes, plan.proxy) for plan in plans]


def front_points(problem: Problem) -> list[tuple[int, float]]:
    return points(exact_front(problem).front)


def unmerged(problem: Problem) -> int:
    return PlanEvaluator(problem).costs.unmerged_bytes


def limits_of(problem: Problem) -> list[Limits]:
    whole = unmerged(problem)
    return [
        Limits(),
        Limits(0.8 * whole),
        Limits(quality=0.6),
        Limits(0.9 * whole, 0.7),
        Limits(0.6 * whole, 0.4),
        Limits(whole / 3),
    ]


@pytest.mark.parametrize("seed", SMALL)
def test_the_exact_front_is_the_front_of_all_plans(seed: int) -> None:
    problem = random_problem(seed)
    plans = predict_all(problem)
    for limits in limits_of(problem):
        assert front_points(replace(problem, limits=limits)) == front_of(plans, limits), limits
    assert count_plans(problem) == len(plans)


@pytest.mark.parametrize("seed", SMALL)
def test_the_exact_front_with_precisions_is_the_front_of_all_plans(seed: int) -> None:
    problem = with_precision_profiles(every_nth_share(random_problem(seed), 2), seed)
    plans = predict_all(problem)
    assert len({plan.plan.precisions for plan in plans}) > 3
    for limits in limits_of(problem):
        exact = front_points(replace(problem, limits=limits))
        expected = front_of(plans, limits)
        assert [size for size, _ in exact] == [size for size, _ in expected], limits
        assert [q for _, q in exact] == pytest.approx([q for _, q in expected], abs=1e-12)


@pytest.mark.parametrize("seed", range(0, 24, 5))
def test_the_plan_table_evaluates_plans_of_a_profile_as_the_evaluator_does(seed: int) -> None:
    problem = with_precision_profiles(random_problem(seed), seed)
    evaluator, rng = PlanEvaluator(problem), np.random.default_rng(seed)
    for profile in problem.profiles:
        table = PlanTable(problem, profile)
        chosen = np.array(
            [
                rng.choice([NO_SHARE, *table.shares_into(segment)], 50)
                for segment in range(len(table.segments))
            ]
        )
        values = table.evaluate(chosen)
        for column in np.flatnonzero(values.acyclic):
            plan = canonical(table.plan(chosen[:, column]), problem.layouts)
            predicted = evaluator.predict(apply_profile(plan, profile, problem.facts))
            assert predicted.bytes == values.bytes[column]
            assert predicted.proxy == pytest.approx(values.quality[column], abs=1e-12)
            assert predicted.worst == pytest.approx(values.worst[column], abs=1e-12)


def test_the_random_problems_are_of_every_kind() -> None:
    kinds: Counter[str] = Counter()
    for seed in SMALL:
        problem = random_problem(seed)
        table = PlanTable(problem)
        bytes_by_context = table.adapter_bytes.table[:-1]
        kinds["a fold that saves bytes"] += bool((bytes_by_context < 0).any())
        kinds["a map that costs bytes"] += bool((bytes_by_context > 0).any())
        kinds["a cost that depends on others"] += bool(
            (bytes_by_context.max((1, 2)) > bytes_by_context.min((1, 2))).any()
        )
        kinds["a representation donated on"] += len(table.adapter_bytes.results) > 1
        kinds["a tensor held twice"] += bool(table.stage_bytes.tied)
        kinds["a cycle"] += count_plans(problem) < problem.space.size
        kinds["an adapter that another beats"] += len(table.undominated_shares()) < len(
            table.shares
        )
        kinds["adapters that cost nothing"] += not table.adapter_bytes.any
    assert len(kinds) == 8 and min(kinds.values()) >= 3, kinds


@pytest.mark.parametrize("values", [(0.0, 0.5, 1.0), (1.0,), (0.5, 0.7)])
@pytest.mark.parametrize("seed", [3, 7, 10])
def test_no_tied_plan_is_missed(seed: int, values: tuple[float, ...]) -> None:
    problem = random_problem(seed)
    rng = np.random.default_rng(seed)
    problem = replace(
        problem, quality_by_share={s: float(rng.choice(values)) for s in problem.quality_by_share}
    )
    plans = predict_all(problem)
    for floor in (0.0, 0.5, 0.7, 0.7 * 0.5):
        limits = Limits(quality=floor)
        exact = exact_front(replace(problem, limits=limits)).front
        assert set(exact) <= set(plans) and exact
        assert all(limits.allow(p.bytes, p.worst) for p in exact)
        for size, proxy in front_of(plans, limits):
            assert any(p.bytes <= size and p.proxy >= proxy - ROUNDING for p in exact)


def test_where_nothing_is_feasible_the_front_is_empty() -> None:
    problem = random_problem(5)
    assert front_points(replace(problem, limits=Limits(10))) == []
    assert front_points(replace(problem, limits=Limits(unmerged(problem) - 1, 1.0))) == []


def test_an_empty_space_holds_one_plan() -> None:
    problem = replace(random_problem(0), quality_by_share={})
    (only,) = exact_front(problem).front
    assert (only.plan, only.bytes, only.proxy) == (SharePlan(), unmerged(problem), 1.0)
    assert count_plans(problem) == 1


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_pruning_does_not_change_the_front(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(seed)
    problem = replace(problem, limits=Limits(0.9 * unmerged(problem), 0.3))
    pruned = exact_front(problem)

    monkeypatch.setattr("search.study.exact.branch_and_bound.MAX_ENTRIES", 1)
    monkeypatch.setattr("search.study.exact.bounds.RELAXED_POINTS", 1)
    assert points(exact_front(problem).front) == points(pruned.front)
    monkeypatch.setattr(
        Bounds, "may_improve", lambda bounds, partial, relaxed: np.ones(len(partial), np.bool_)
    )
    unpruned = exact_front(problem)
    assert points(unpruned.front) == points(pruned.front)
    assert unpruned.examined > pruned.examined


@pytest.mark.parametrize("seed", range(0, 24, 5))
def test_seeds_do_not_change_the_front_and_progress_counts_every_partial_plan(seed: int) -> None:
    problem = random_problem(seed)
    problem = replace(problem, limits=Limits(0.9 * unmerged(problem)))
    steps: list[int] = []
    plain = exact_front(problem, steps.append)
    assert sum(steps) == plain.examined and plain.combinations == problem.space.size
    seeds = [p.plan for p in predict_all(problem)[:50]]
    assert points(exact_front(problem, seeds=seeds).front) == points(plain.front)


def large(seed: int) -> Problem:
    return problem_of(
        with_random_consumers(made_up_facts(*LARGE, seed), seed), seed, (IDENTITY, LINEAR)
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_no_random_plan_beats_the_front_of_a_space_of_more_than_a_million(seed: int) -> None:
    problem = large(seed)
    problem = replace(problem, limits=Limits(0.9 * unmerged(problem), 0.1))
    assert count_plans(problem) > 1_000_000
    exact, evaluator = exact_front(problem).front, PlanEvaluator(problem)
    assert len(exact) > 10
    for one, following in pairwise(exact):
        assert one.bytes < following.bytes and one.proxy < following.proxy
    for plan in exact:
        assert problem.limits.allow(plan.bytes, plan.worst)
        assert plan == evaluator.predict(canonical(plan.plan, problem.layouts))
    feasible = [
        p for p in random_plans(problem, evaluator, exact, 3_000) if evaluator.is_feasible(p)
    ]
    assert len(feasible) > 500
    for other in feasible:
        assert any(p.bytes <= other.bytes and p.proxy >= other.proxy - ROUNDING for p in exact)


def random_plans(
    problem: Problem, evaluator: PlanEvaluator, near: Sequence[PredictedPlan], count: int
) -> list[PredictedPlan]:
    """Return plans of which half are random and half differ from those near by 1 or 2 choices."""
    rng, encoding = np.random.default_rng(0), problem.space
    plans = []
    for k in range(count):
        start = near[k % len(near)].plan if k % 2 else SharePlan()
        parameters = encoding.encode(start)
        slots = rng.permutation(len(encoding.slots))
        for slot in slots[: int(rng.integers(1, 3)) if k % 2 else None]:
            choices = list(encoding.slots[slot].choices)
            parameters[encoding.slots[slot].name] = choices[rng.integers(len(choices))]
        plans.append(evaluator.predict(encoding.decode(parameters)))
    return plans


def test_a_space_beyond_the_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.study.exact.branch_and_bound.MAX_EXAMINED", 1_000)
    monkeypatch.setattr("search.study.exact.counting.MAX_COMBINATIONS", 100)
    with pytest.raises(TooLarge, match="1,000 partial plans were examined and more remain"):
        exact_front(large(0))
    with pytest.raises(TooLarge, match=r"cannot be counted.* and the limit is 100"):
        count_plans(large(0))


def test_the_plan_table_agrees_with_the_cost_model_and_the_proxy_on_real_networks(
    street: ZooDeployment,
) -> None:
    shares = enumerate_shares(
        find_pairs(street.facts).legal, street.facts, (IDENTITY, LINEAR, LOW_RANK)
    )
    rng = np.random.default_rng(1)
    problem = Problem(
        street.facts, {s: float(k) for s, k in zip(shares, rng.random(len(shares)), strict=True)}
    )
    table, evaluator = PlanTable(problem), PlanEvaluator(problem)
    picks = np.array(
        [rng.choice([NO_SHARE, *table.shares_into(k)], 800) for k in range(len(table.segments))]
    )
    values = table.evaluate(picks)
    assert 80 < values.acyclic.sum() < 800
    for k in range(800):
        plan = table.plan(picks[:, k])
        if not values.acyclic[k]:
            with pytest.raises(BadPlan, match="cycle"):
                liveness(plan, problem.layouts)
            continue
        assert canonical(plan, problem.layouts) == plan, "every chosen share is live"
        predicted = evaluator.predict(plan)
        assert predicted.bytes == values.bytes[k]
        assert predicted.proxy == pytest.approx(values.quality[k], abs=ROUNDING)
        assert predicted.worst == pytest.approx(values.worst[k], abs=ROUNDING)
