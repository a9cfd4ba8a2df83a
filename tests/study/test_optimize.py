"""The study against enumeration and random sampling, on made-up deployments."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest
from made_up_precisions import with_precision_profiles
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from slow_smallest_plan import slow_smallest_plan
from test_exact import random_problem
from tiny import MadeUpDeployment

from search.study.claims import Claims
from search.study.local_front.pareto_search import local_front
from search.study.objectives import EvaluatedPlan, PlanEvaluator
from search.study.optimize import StudyResult, StudySettings, join_study, run_study
from search.study.pareto import front_indices, hypervolume, nondominated_indices
from search.study.problem import Cost, Limits, Problem, SamplerName
from search.study.samplers import LocalSampler, UniquePlanSampler, make_sampler
from search.study.smallest_plan import smallest_plan, smallest_plan_thorough
from search.study.storage import open_store
from search.study.warm_start import (
    greedy_plans,
    heuristic_plans,
    shares_by_bytes,
    starting_plans,
)
from spaces.cost import CostModel
from spaces.plan import LINEAR, Ref, Share, SharePlan

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


def run_in(
    problem: Problem,
    folder: Path,
    trials: int,
    seed: int = 0,
    sampler: SamplerName = "local",
) -> StudyResult:
    """Run a study whose store is in the folder, from the usual starting plans."""
    smallest = smallest_plan(problem, PlanEvaluator(problem)).plan
    return run_from(starting_plans(problem, [smallest]), problem, folder, trials, seed, sampler)


def run_from(
    starts: Sequence[SharePlan],
    problem: Problem,
    folder: Path,
    trials: int,
    seed: int,
    sampler: SamplerName,
) -> StudyResult:
    folder.mkdir(exist_ok=True)
    settings = StudySettings("made-up", str(folder / "study.log"), sampler, trials, seed)
    return run_study(PlanEvaluator(problem), settings, starts)


def load_studies(folder: Path) -> list[optuna.Study]:
    storage = open_store(str(folder / "study.log"))
    return [
        optuna.load_study(study_name=name, storage=storage)
        for name in optuna.get_all_study_names(storage)
    ]


def complete_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


SMALL = MadeUpDeployment({"a": 2, "b": 2})
MIDDLE = MadeUpDeployment({"a": 4, "det": 4}, {"det": (1, 3)})


def evaluate_all(problem: Problem) -> list[EvaluatedPlan]:
    """Evaluate every plan of the space once."""
    slots, evaluator = problem.space.slots, PlanEvaluator(problem)
    names = [slot.name for slot in slots]
    plans = {
        problem.space.decode(dict(zip(names, combination, strict=True)))
        for combination in product(*(slot.choices for slot in slots))
    }
    return [evaluator.evaluate(plan) for plan in sorted(plans, key=lambda plan: plan.hash)]


def true_front(problem: Problem) -> list[tuple[float, ...]]:
    evaluator = PlanEvaluator(problem)
    points = [v.objectives for v in evaluate_all(problem) if evaluator.is_feasible(v)]
    return sorted(points[i] for i in nondominated_indices(points))


# Every sampler.


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_plan_is_evaluated_twice_and_an_exhausted_space_ends_the_study(
    tmp_path: Path, sampler: SamplerName
) -> None:
    problem = SMALL.problem(0.9)
    result = run_in(problem, tmp_path, 150, sampler=sampler)
    assert problem.space.size == 25
    assert result.exhausted and result.trials == len(evaluate_all(problem)) < 25
    (study,) = load_studies(tmp_path)
    hashes = [t.user_attrs["claim"][0] for t in complete_trials(study)]
    assert sorted(hashes) == sorted(v.plan.hash for v in evaluate_all(problem))
    assert sorted(v.objectives for v in result.front) == true_front(problem)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_trial_has_another_plan_in_a_space_too_large_to_exhaust(
    tmp_path: Path, sampler: SamplerName
) -> None:
    problem = MIDDLE.problem(0.7)
    result = run_in(problem, tmp_path, 60, sampler=sampler)
    assert (result.trials, len(result.hypervolumes), result.exhausted) == (60, 60, False)
    valued = [t.user_attrs["claim"][0] for t in complete_trials(load_studies(tmp_path)[0])]
    assert len(set(valued)) == 60
    budget = problem.limits.bytes
    assert result.front and all(v.bytes <= budget for v in (*result.front, *result.feasible))
    assert set(result.front) <= set(result.feasible)
    assert all(a.bytes < b.bytes and a.proxy < b.proxy for a, b in pairwise(result.front))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_gives_the_same_result(tmp_path: Path, sampler: SamplerName) -> None:
    problem = MadeUpDeployment({"a": 5, "det": 5}, {"det": (2, 4)}).problem(0.7)
    one, same, other = (
        run_in(problem, tmp_path / str(k), 60, seed, sampler) for k, seed in enumerate((1, 1, 2))
    )
    assert one == same
    assert one.evaluated != other.evaluated


def test_as_many_trials_as_plans_end_the_study_without_failed_trials(tmp_path: Path) -> None:
    problem = SMALL.problem(0.9)
    size = len(evaluate_all(problem))
    result = run_in(problem, tmp_path, size)
    assert result.trials == size
    assert {t.state for t in load_studies(tmp_path)[0].trials} == {TrialState.COMPLETE}


# The default sampler.


def test_the_local_sampler_beats_nsga2_and_random_sampling_at_equal_trials(tmp_path: Path) -> None:
    problem = MadeUpDeployment({"a": 9, "det": 9}, {"det": (4, 6, 8)}, seed=1).problem(0.6)
    assert problem.space.size > 100_000
    starts = [*heuristic_plans(problem)]  # without the local front, which leaves little to find
    volumes = {
        sampler: np.mean(
            [
                run_from(starts, problem, tmp_path / sampler, 150, seed, sampler).hypervolumes[-1]
                for seed in range(5)
            ]
        )
        for sampler in ("local", "nsga2", "random")
    }
    assert volumes["local"] > 1.02 * volumes["nsga2"] > 1.02 * 1.02 * volumes["random"]


def test_the_neighbours_of_a_share_are_at_most_a_stage_away() -> None:
    problem = MIDDLE.problem(1.0)
    neighbours = LocalSampler(problem, 0).neighbours
    for slot in problem.space.slots:
        assert neighbours[slot.name]["-"] == []
        for key, share in slot.choices.items():
            if share is None:
                continue
            for other, near in slot.choices.items():
                steps = 9 if near is None else max(
                    abs(int(near.donor.stage[1:]) - int(share.donor.stage[1:])),
                    abs(int(near.recipient.stage[1:]) - int(share.recipient.stage[1:])),
                )  # fmt: skip
                assert (other in neighbours[slot.name][key]) == (other != key and steps <= 1)


# Results and stored trials.


def test_the_hypervolume_of_a_study_never_falls(tmp_path: Path) -> None:
    problem = MIDDLE.problem(0.7)
    result = run_in(problem, tmp_path, 40)
    assert all(b >= a for a, b in pairwise(result.hypervolumes))
    budget = problem.limits.bytes
    area = hypervolume([(v.bytes / budget, v.proxy) for v in result.front], (1.0, 0.0))
    assert result.hypervolumes[-1] == pytest.approx(area) and 0 < area < 1


def test_trials_over_the_budget_are_complete_and_marked(tmp_path: Path) -> None:
    problem = SMALL.problem(0.6)
    result = run_in(problem, tmp_path, 12)
    (study,) = load_studies(tmp_path)
    over = 0
    for trial in complete_trials(study):
        (violation,) = trial.constraints.values()
        megabytes = trial.values[0]
        assert (violation > 0) == (megabytes > problem.limits.bytes / 1e6)
        over += violation > 0
    assert 0 < over < 12
    assert len(result.feasible) == 12 - over


def test_running_again_with_more_trials_adds_only_the_difference(tmp_path: Path) -> None:
    problem = MIDDLE.problem(0.9)
    first = run_in(problem, tmp_path, 20)
    steps: list[int] = []
    settings = StudySettings("made-up", str(tmp_path / "study.log"), "local", 32, 0)
    second = run_study(PlanEvaluator(problem), settings, (), steps.append)
    assert (first.trials, second.trials) == (20, 32)
    assert steps[0] == 20 and sum(steps) == 32
    assert second.hypervolumes[:20] == first.hypervolumes
    assert run_in(problem, tmp_path, 32) == second
    assert run_in(problem, tmp_path, 5) == second  # stored trials stay


def test_another_problem_seed_or_sampler_is_another_study(tmp_path: Path) -> None:
    problem = MIDDLE.problem(0.9)
    less = {share: quality * 0.9 for share, quality in problem.quality_by_share.items()}
    for other in (
        problem,
        MIDDLE.problem(0.8),
        replace(problem, limits=Limits(quality=0.5)),
        replace(problem, quality_by_share=less),
        replace(problem, costs=("bytes", "macs")),
    ):
        run_in(other, tmp_path, 5)
    run_in(problem, tmp_path, 5, seed=1)
    run_in(problem, tmp_path, 5, sampler="random")
    assert [len(complete_trials(s)) for s in load_studies(tmp_path)] == [5] * 7


def test_a_problem_survives_the_round_trip_through_json() -> None:
    """Another machine needs no more than the JSON to evaluate the same plans."""
    for problem in (
        MIDDLE.problem(0.7),
        Problem(MIDDLE.facts, MIDDLE.similarities, Limits(quality=0.4)),
    ):
        loaded = Problem.from_dict(json.loads(json.dumps(problem.to_dict())))
        assert loaded.hash == problem.hash and loaded.limits == problem.limits
        assert loaded.facts == problem.facts and loaded.costs == problem.costs
        assert loaded.quality_by_share == pytest.approx(problem.quality_by_share)
        both = zip(evaluate_all(loaded), evaluate_all(problem), strict=True)
        assert all(a.objectives == pytest.approx(b.objectives) for a, b in both)


# Limits and objectives.


@pytest.mark.parametrize("floor", [0.3, 0.6, 0.8])
def test_a_quality_floor_holds_for_every_model(tmp_path: Path, floor: float) -> None:
    problem = Problem(SMALL.facts, SMALL.similarities, Limits(quality=floor))
    result = run_in(problem, tmp_path, 100)
    assert result.exhausted and all(v.worst >= floor for v in result.feasible)
    fewest = min(v.bytes for v in evaluate_all(problem) if v.worst >= floor)
    assert result.front[0].bytes == fewest == result.shortlist(1)[0].bytes
    for trial in complete_trials(load_studies(tmp_path)[0]):
        assert list(trial.constraints) == ["quality below floor"]


def test_the_floor_applies_to_the_worst_model_and_quality_is_the_mean() -> None:
    evaluator = PlanEvaluator(SMALL.problem(1.0))
    for valued in evaluate_all(evaluator.problem):
        by_model = evaluator.proxy.by_model(valued.plan)
        assert valued.worst == min(by_model.values())
        assert valued.proxy == evaluator.proxy.quality(valued.plan)


@pytest.mark.parametrize(
    "costs",
    [("macs",), ("bytes", "macs"), ("activation", "bytes"), ("bytes", "macs", "activation")],
)
def test_other_objectives_are_minimised_too(tmp_path: Path, costs: tuple[Cost, ...]) -> None:
    problem = replace(SMALL.problem(0.95), costs=costs)
    result = run_in(problem, tmp_path, 100)
    model = CostModel(problem.facts)
    measure = {"bytes": model.bytes, "macs": model.macs, "activation": model.activation}
    assert sorted(v.objectives for v in result.front) == true_front(problem)
    for valued in result.feasible:
        expected = tuple(measure[cost](valued.plan) / 1e6 for cost in costs)
        assert valued.costs == expected
    for trial in complete_trials(load_studies(tmp_path)[0]):
        assert len(trial.values) == len(costs) + 1


def test_latency_is_measured_once_per_plan_and_stored(tmp_path: Path) -> None:
    problem = replace(SMALL.problem(0.95), costs=("latency",))
    timed_plans: list[SharePlan] = []

    def measure(plan: SharePlan) -> float:
        timed_plans.append(plan)
        return random.random()

    settings = StudySettings("made-up", str(tmp_path / "study.log"), "local", 100, 0)
    first = run_study(PlanEvaluator(problem, measure), settings)
    assert len(timed_plans) == len(set(timed_plans)) == first.trials
    assert run_study(PlanEvaluator(problem, measure), settings) == first  # not measured again
    assert len(timed_plans) == first.trials


# Starting plans.


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_the_first_trial_is_within_any_budget_that_can_be_met(tmp_path: Path, trials: int) -> None:
    least = smallest_plan(MIDDLE.problem(1.0), PlanEvaluator(MIDDLE.problem(1.0)))
    problem = Problem(MIDDLE.facts, MIDDLE.similarities, Limits(bytes=least.bytes))
    result = run_in(problem, tmp_path, trials)
    assert [v.plan for v in result.front] == [least.plan]


def test_an_empty_space_holds_one_plan(tmp_path: Path) -> None:
    problem = Problem(SMALL.facts, {}, Limits())
    result = run_in(problem, tmp_path, 3)
    assert [v.plan for v in result.front] == [SharePlan()] and result.exhausted
    assert smallest_plan(problem, PlanEvaluator(problem)).plan == SharePlan()


def test_starting_plans_are_prior_plans_the_empty_plan_and_the_local_front() -> None:
    problem = MIDDLE.problem(0.7)
    prior_plan = SharePlan(
        (
            max(
                problem.quality_by_share,
                key=lambda s: (s.recipient.stage, -problem.quality_by_share[s]),
            ),
        )
    )
    plans = starting_plans(problem, [prior_plan])
    assert plans[:2] == [prior_plan, SharePlan()] and len(plans) == len(set(plans))
    heuristic = [*heuristic_plans(problem)]
    front = local_front(problem, [prior_plan, *heuristic])
    assert plans[2:] == [plan for plan in front if plan not in plans[:2]]
    both = starting_plans(replace(problem, costs=("bytes", "activation")), [prior_plan])
    assert both[: len(plans)] == plans and set(both) == {*plans, *heuristic}
    for cost in ("activation", "latency"):
        unlisted = replace(problem, costs=(cost,))
        expected = dict.fromkeys([prior_plan, SharePlan(), *heuristic])
        assert starting_plans(unlisted, [prior_plan]) == [*expected]


def test_the_heuristic_plans_hold_the_best_share_of_every_recipient() -> None:
    problem = MIDDLE.problem(0.7)
    plans = [*heuristic_plans(problem)]
    for recipient in {share.recipient for share in problem.quality_by_share}:
        choices = [share for share in problem.quality_by_share if share.recipient == recipient]
        assert SharePlan((max(choices, key=lambda s: problem.quality_by_share[s]),)) in plans


def test_the_heuristic_plans_share_every_model_with_all_others_at_every_depth() -> None:
    problem = MadeUpDeployment({"a": 3, "b": 3, "c": 3}).problem(0.7)
    plans = [*heuristic_plans(problem)]
    for trunk in "abc":
        others = sorted({"a", "b", "c"} - {trunk})
        prefixes = [
            SharePlan(tuple(Share(Ref(o, s), Ref(trunk, s), LINEAR) for o in others))
            for s in ("s2", "s1", "s0")
        ]
        places = [plans.index(prefix) for prefix in prefixes]
        assert places == sorted(places)


def test_starting_plans_leave_out_shares_that_are_not_in_the_space() -> None:
    elsewhere = Share(Ref("gone", "s1"), Ref("a", "s1"))
    assert starting_plans(SMALL.problem(1.0), [SharePlan((elsewhere,))]) == starting_plans(
        SMALL.problem(1.0)
    )
    assert len(starting_plans(Problem(SMALL.facts, {}), [SharePlan((elsewhere,))])) == 1


def test_greedy_plans_grow_by_shares_and_are_plans_of_the_space() -> None:
    problem = MIDDLE.problem(0.7)
    order = shares_by_bytes(problem)
    model = CostModel(problem.facts)
    alone = [model.bytes(SharePlan((share,))) for share in order]
    assert alone == sorted(alone) and set(order) == set(problem.quality_by_share)
    steps = list(greedy_plans(problem, order))
    assert steps[0] == SharePlan((order[0],)) and len(steps) > 2
    for one, other in pairwise(steps):
        assert set(one.shares) < set(other.shares)
    for plan in steps:
        assert problem.space.decode(problem.space.encode(plan)) == plan


def test_the_starting_plans_are_the_first_trials_in_their_order(tmp_path: Path) -> None:
    problem = MIDDLE.problem(0.7)
    starts = starting_plans(problem)
    settings = StudySettings("made-up", str(tmp_path / "study.log"), "nsga2", len(starts) + 2, 0)
    run_study(PlanEvaluator(problem), settings, starts)
    evaluated = [t.user_attrs["claim"][0] for t in complete_trials(load_studies(tmp_path)[0])]
    assert evaluated[: len(starts)] == [plan.hash for plan in starts]


def test_a_worker_takes_the_starting_plans_in_an_order_of_its_own(tmp_path: Path) -> None:
    problem = MadeUpDeployment({"a": 6, "b": 6, "c": 5}).problem(0.7)
    store = str(tmp_path / "study.log")
    starts = starting_plans(problem)
    settings = StudySettings("made-up", store, "local", 1, 0)
    run_study(PlanEvaluator(problem), settings, starts)
    (study,) = load_studies(tmp_path)
    study.set_user_attr("settings", {**study.user_attrs["settings"], "trials": len(starts)})
    assert join_study(store, settings.study_name(problem)) == len(starts) - 1 > 10
    evaluated = [t.user_attrs["claim"][0] for t in complete_trials(load_studies(tmp_path)[0])]
    in_order = [plan.hash for plan in starts]
    assert sorted(evaluated) == sorted(in_order) and evaluated != in_order


def test_a_plan_that_another_process_has_just_claimed_is_not_proposed(tmp_path: Path) -> None:
    study, _, (mine, theirs) = two_claims(tmp_path)
    problem = MIDDLE.problem(0.7)
    starts = starting_plans(problem)
    proposer = make_sampler("local", problem, 0)
    study.sampler = UniquePlanSampler(proposer, problem.space, mine, starts, 0)
    other = optuna.load_study(
        study_name=study.study_name, storage=open_store(str(tmp_path / "study.log"))
    )
    assert theirs.claim(other.ask(), starts[0].hash)
    trial = study.ask(study.sampler.distributions)
    assert problem.space.decode(trial.params) == starts[1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("stages", "taps"),
    [
        ({"a": 3, "b": 3}, {}),
        ({"a": 2, "b": 3, "c": 2}, {}),
        ({"a": 3, "det": 3}, {"det": (1, 2)}),
        ({"det": 3, "ted": 3}, {"det": (0, 2), "ted": (1, 2)}),
    ],
)
def test_the_smallest_plan_is_the_smallest_of_all(
    stages: dict[str, int], taps: dict[str, tuple[int, ...]], seed: int
) -> None:
    problem = MadeUpDeployment(stages, taps, seed).problem(1.0)
    assert problem.space.size < 5_000
    least = smallest_plan(problem, PlanEvaluator(problem))
    assert least.bytes == min(v.bytes for v in evaluate_all(problem))


@pytest.mark.parametrize("seed", range(12))
def test_the_smallest_plan_is_no_larger_than_that_of_one_descent_after_another(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.smallest_plan.MAX_ENUMERATED", 0)
    problems = [
        MadeUpDeployment({"a": 4, "det": 4, "b": 3}, {"det": (1, 3)}, seed).problem(1.0),
        random_problem(seed),
        with_precision_profiles(random_problem(seed + 12), seed),
    ]
    for problem in problems:
        evaluator = PlanEvaluator(problem)
        least = smallest_plan(problem, evaluator)
        assert least == evaluator.predict(least.plan)
        slow = slow_smallest_plan(problem, evaluator)
        assert (least.bytes, -least.proxy - 1e-12) <= (slow.bytes, -slow.proxy)


@pytest.mark.parametrize("seed", range(6))
def test_the_thorough_search_finds_the_smallest_plan_of_a_large_space(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "search.study.smallest_plan.MAX_ENUMERATED", 0
    )  # every space counts as large
    problem = MadeUpDeployment({"a": 4, "b": 3}, {"b": (0, 2)}, seed).problem(1.0)
    least = min(valued.bytes for valued in evaluate_all(problem))
    assert smallest_plan_thorough(problem, PlanEvaluator(problem)).bytes == least


def test_the_shortlist_has_the_best_proxies_of_the_layers_next_to_the_front() -> None:
    def valued(size: int, proxy: float) -> EvaluatedPlan:
        share = Share(Ref("b", f"s{size}"), Ref("a", f"s{int(1000 * proxy)}"))
        return EvaluatedPlan(SharePlan((share,)), size, proxy, proxy, (float(size),))

    front_, behind = [valued(1, 0.2), valued(2, 0.9)], [valued(3, 0.85), valued(2, 0.1)]
    third, fourth = [valued(4, 0.8)], [valued(5, 0.7)]
    feasible = (*fourth, *third, *behind, *front_)
    result = StudyResult(tuple(front_), feasible, feasible, (0.0,) * 6, Limits(bytes=9), False)
    assert [v.proxy for v in result.shortlist(4)] == [0.9, 0.85, 0.8, 0.2]
    assert fourth[0] not in result.shortlist(99)
    frugal = replace(result, limits=Limits(quality=0.1))
    assert [v.bytes for v in frugal.shortlist(4)] == [1, 2, 2, 3]


# Claims of two processes.


def two_claims(tmp_path: Path) -> tuple[optuna.Study, BaseStorage, list[Claims]]:
    storage = open_store(str(tmp_path / "study.log"))
    study = optuna.create_study(storage=storage, directions=["minimize", "maximize"])
    number = storage.get_study_id_from_name(study.study_name)
    claims = [Claims(storage, number) for _ in range(2)]
    for index, claim in enumerate(claims):
        claim.process = f"another-machine/0/0/{index}/0.0"
    return study, storage, claims


def test_a_plan_is_claimed_by_at_most_one_process(tmp_path: Path) -> None:
    study, _, (mine, theirs) = two_claims(tmp_path)
    first, second = study.ask(), study.ask()
    assert mine.claim(first, "plan")
    assert not theirs.claim(second, "plan")
    assert not theirs.claim(second, "plan")
    assert theirs.claim(second, "another")
    study.tell(first, state=TrialState.FAIL)
    assert theirs.claim(second, "plan")  # a failed trial releases its plan
    study.tell(second, (1.0, 1.0))
    third = study.ask()
    assert not mine.claim(third, "plan") and "plan" in mine.evaluated


def test_the_claims_of_a_dead_process_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.study.claims.GRACE_SECONDS", 0.05)
    study, storage, (mine, theirs) = two_claims(tmp_path)
    trial = study.ask()
    assert theirs.claim(trial, "plan")
    mine.fail_dead_trials()  # the first heartbeat starts the grace period
    mine.refresh()
    assert "plan" in mine
    storage.set_study_user_attr(mine.study_id, theirs.process, 1)
    time.sleep(0.1)
    mine.fail_dead_trials()  # it has sent a heartbeat since
    mine.refresh()
    assert "plan" in mine
    time.sleep(0.1)
    mine.fail_dead_trials()
    mine.refresh()
    assert "plan" not in mine
    with pytest.raises((optuna.exceptions.UpdateFinishedTrialError, ValueError)):
        study.tell(trial, (1.0, 1.0))  # too late: a plan is not evaluated twice


def test_the_claims_of_a_dead_process_of_this_machine_end_at_once(tmp_path: Path) -> None:
    study, _, (mine, theirs) = two_claims(tmp_path)
    here = Claims(mine.storage, mine.study_id).process
    *place, _, started = here.split("/")
    mine.process = here
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    theirs.process = "/".join([*place, str(child), started])
    trial, own = study.ask(), study.ask()
    assert theirs.claim(trial, "plan") and mine.claim(own, "own")
    mine.fail_dead_trials()
    mine.refresh()
    assert "plan" not in mine and "own" in mine


def test_a_living_process_of_this_machine_keeps_its_claims(tmp_path: Path) -> None:
    study, _, (mine, theirs) = two_claims(tmp_path)
    theirs.process = Claims(mine.storage, mine.study_id).process  # this very process
    assert theirs.claim(study.ask(), "plan")
    mine.fail_dead_trials()
    mine.refresh()
    assert "plan" in mine


def test_nondominated_points_have_any_number_of_objectives() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 4):
        points = [tuple(map(float, row)) for row in rng.integers(0, 6, (60, size))]
        front = nondominated_indices(points)
        for index, point in enumerate(points):
            beaten = any(
                all(a <= b for a, b in zip(other, point, strict=True)) and other != point
                for other in points
            )
            has_copy = point in [points[k] for k in front if k != index]
            assert (index in front) == (not beaten and not has_copy) or has_copy
        assert len({points[k] for k in front}) == len(front)
    pairs = [(float(a), float(b)) for a, b in rng.integers(0, 9, (50, 2))]
    assert nondominated_indices([(c, -g) for c, g in pairs]) == front_indices(pairs)
