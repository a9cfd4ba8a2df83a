"""The study against enumeration, brute force and chance, on made-up deployments."""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from tiny import MadeUpDeployment

from search.study.claims import Claims
from search.study.objectives import EvaluatedPlan, PlanEvaluator
from search.study.optimize import StudyResult, StudySettings, run_study
from search.study.pareto import front_indices, hypervolume, nondominated_indices
from search.study.problem import Cost, Limits, Problem, SamplerName
from search.study.samplers import LocalSampler
from search.study.smallest_plan import smallest_plan, smallest_plan_thorough
from search.study.storage import open_store
from search.study.warm_start import greedy_plans, shares_by_bytes, starting_plans
from spaces.cost import CostModel
from spaces.plan import LINEAR, Ref, Share, SharePlan

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


def explored(
    problem: Problem,
    folder: Path,
    trials: int,
    seed: int = 0,
    sampler: SamplerName = "local",
) -> StudyResult:
    folder.mkdir(exist_ok=True)
    settings = StudySettings("made-up", str(folder / "study.log"), sampler, trials, seed)
    evaluator = PlanEvaluator(problem)
    starts = starting_plans(problem, [smallest_plan(problem, evaluator).plan])
    return run_study(evaluator, settings, starts)


def stored(folder: Path) -> list[optuna.Study]:
    storage = open_store(str(folder / "study.log"))
    return [
        optuna.load_study(study_name=name, storage=storage)
        for name in optuna.get_all_study_names(storage)
    ]


def complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


SMALL = MadeUpDeployment({"a": 2, "b": 2})
MIDDLE = MadeUpDeployment({"a": 4, "det": 4}, {"det": (1, 3)})


def everything(problem: Problem) -> list[EvaluatedPlan]:
    """All plans of the space, each once."""
    slots, evaluator = problem.space.slots, PlanEvaluator(problem)
    names = [slot.name for slot in slots]
    plans = {
        problem.space.decode(dict(zip(names, chosen, strict=True)))
        for chosen in product(*(slot.choices for slot in slots))
    }
    return [evaluator.evaluate(plan) for plan in sorted(plans, key=lambda plan: plan.hash)]


def true_front(problem: Problem) -> list[tuple[float, ...]]:
    evaluator = PlanEvaluator(problem)
    points = [v.objectives for v in everything(problem) if evaluator.is_feasible(v)]
    return sorted(points[i] for i in nondominated_indices(points))


# What every sampler must do.


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_trial_is_spent_on_a_plan_that_is_known_and_an_exhausted_space_ends_the_search(
    tmp_path: Path, sampler: SamplerName
) -> None:
    problem = SMALL.problem(0.9)
    found = explored(problem, tmp_path, 150, sampler=sampler)
    assert problem.space.size == 25
    assert found.exhausted and found.trials == len(everything(problem)) < 25
    (study,) = stored(tmp_path)
    hashes = [t.user_attrs["claim"][0] for t in complete(study)]
    assert sorted(hashes) == sorted(v.plan.hash for v in everything(problem))
    assert sorted(v.objectives for v in found.front) == true_front(problem)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_trial_is_another_plan_in_a_space_too_large_to_exhaust(
    tmp_path: Path, sampler: SamplerName
) -> None:
    problem = MIDDLE.problem(0.7)
    found = explored(problem, tmp_path, 60, sampler=sampler)
    assert (found.trials, len(found.hypervolumes), found.exhausted) == (60, 60, False)
    valued = [t.user_attrs["claim"][0] for t in complete(stored(tmp_path)[0])]
    assert len(set(valued)) == 60
    budget = problem.limits.bytes
    assert found.front and all(v.bytes <= budget for v in (*found.front, *found.feasible))
    assert set(found.front) <= set(found.feasible)
    assert all(a.bytes < b.bytes and a.proxy < b.proxy for a, b in pairwise(found.front))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_finds_the_same(tmp_path: Path, sampler: SamplerName) -> None:
    problem = MadeUpDeployment({"a": 5, "det": 5}, {"det": (2, 4)}).problem(0.7)
    one, same, other = (
        explored(problem, tmp_path / str(k), 60, seed, sampler) for k, seed in enumerate((1, 1, 2))
    )
    assert one == same
    assert one.hypervolumes != other.hypervolumes


def test_exactly_at_its_size_a_space_is_done_without_a_look_for_more(tmp_path: Path) -> None:
    problem = SMALL.problem(0.9)
    size = len(everything(problem))
    found = explored(problem, tmp_path, size)
    assert found.trials == size
    assert {t.state for t in stored(tmp_path)[0].trials} == {TrialState.COMPLETE}


# What the default sampler is there for.


def test_the_local_sampler_beats_chance_and_nsga2_at_equal_trials(tmp_path: Path) -> None:
    problem = MadeUpDeployment({"a": 9, "det": 9}, {"det": (4, 6, 8)}, seed=1).problem(0.6)
    assert problem.space.size > 100_000
    volumes = {
        sampler: np.mean(
            [
                explored(problem, tmp_path / sampler, 150, seed, sampler).hypervolumes[-1]
                for seed in range(5)
            ]
        )
        for sampler in ("local", "nsga2", "random")
    }
    assert volumes["local"] > 1.02 * volumes["nsga2"] > 1.02 * 1.02 * volumes["random"]


def test_beside_a_share_lie_those_a_stage_away_from_the_same_donor_model() -> None:
    problem = MIDDLE.problem(1.0)
    beside = LocalSampler(problem, 0).neighbours
    for slot in problem.space.slots:
        assert beside[slot.name]["-"] == []
        for key, share in slot.choices.items():
            if share is None:
                continue
            for other, near in slot.choices.items():
                steps = 9 if near is None else max(
                    abs(int(near.donor.stage[1:]) - int(share.donor.stage[1:])),
                    abs(int(near.recipient.stage[1:]) - int(share.recipient.stage[1:])),
                )  # fmt: skip
                assert (other in beside[slot.name][key]) == (other != key and steps <= 1)


# What is kept.


def test_progress_is_the_hypervolume_so_far_and_never_falls(tmp_path: Path) -> None:
    problem = MIDDLE.problem(0.7)
    found = explored(problem, tmp_path, 40)
    assert all(b >= a for a, b in pairwise(found.hypervolumes))
    budget = problem.limits.bytes
    area = hypervolume([(v.bytes / budget, v.proxy) for v in found.front], (1.0, 0.0))
    assert found.hypervolumes[-1] == pytest.approx(area) and 0 < area < 1


def test_trials_over_the_budget_are_complete_and_marked(tmp_path: Path) -> None:
    problem = SMALL.problem(0.6)
    found = explored(problem, tmp_path, 12)
    (study,) = stored(tmp_path)
    over = 0
    for trial in complete(study):
        (violation,) = trial.constraints.values()
        megabytes = trial.values[0]
        assert (violation > 0) == (megabytes > problem.limits.bytes / 1e6)
        over += violation > 0
    assert 0 < over < 12
    assert len(found.feasible) == 12 - over


def test_running_again_with_more_trials_adds_only_the_difference(tmp_path: Path) -> None:
    problem = MIDDLE.problem(0.9)
    first = explored(problem, tmp_path, 20)
    told: list[int] = []
    settings = StudySettings("made-up", str(tmp_path / "study.log"), "local", 32, 0)
    second = run_study(PlanEvaluator(problem), settings, (), told.append)
    assert (first.trials, second.trials) == (20, 32)
    assert told[0] == 20 and sum(told) == 32
    assert second.hypervolumes[:20] == first.hypervolumes
    assert explored(problem, tmp_path, 32) == second
    assert explored(problem, tmp_path, 5) == second  # what is there is not thrown away


def test_another_problem_seed_or_sampler_is_another_study(tmp_path: Path) -> None:
    problem = MIDDLE.problem(0.9)
    less = {share: kept * 0.9 for share, kept in problem.quality_by_share.items()}
    for other in (
        problem,
        MIDDLE.problem(0.8),
        replace(problem, limits=Limits(quality=0.5)),
        replace(problem, quality_by_share=less),
        replace(problem, costs=("bytes", "macs")),
    ):
        explored(other, tmp_path, 5)
    explored(problem, tmp_path, 5, seed=1)
    explored(problem, tmp_path, 5, sampler="random")
    assert [len(complete(s)) for s in stored(tmp_path)] == [5] * 7


def test_a_problem_is_data() -> None:
    """JSON in, the same problem out, worth the same: another machine needs nothing else."""
    for problem in (
        MIDDLE.problem(0.7),
        Problem(MIDDLE.facts, MIDDLE.similarities, Limits(quality=0.4)),
    ):
        again = Problem.from_dict(json.loads(json.dumps(problem.to_dict())))
        assert again.hash == problem.hash and again.limits == problem.limits
        assert again.facts == problem.facts and again.costs == problem.costs
        assert again.quality_by_share == pytest.approx(problem.quality_by_share)
        both = zip(everything(again), everything(problem), strict=True)
        assert all(a.objectives == pytest.approx(b.objectives) for a, b in both)


# The two kinds of request, and other objectives.


@pytest.mark.parametrize("floor", [0.3, 0.6, 0.8])
def test_a_quality_floor_holds_for_every_model(tmp_path: Path, floor: float) -> None:
    problem = Problem(SMALL.facts, SMALL.similarities, Limits(quality=floor))
    found = explored(problem, tmp_path, 100)
    assert found.exhausted and all(v.worst >= floor for v in found.feasible)
    fewest = min(v.bytes for v in everything(problem) if v.worst >= floor)
    assert found.front[0].bytes == fewest == found.shortlist(1)[0].bytes
    for trial in complete(stored(tmp_path)[0]):
        assert list(trial.constraints) == ["quality below floor"]


def test_the_worst_model_counts_for_the_floor_and_the_mean_for_the_quality() -> None:
    evaluator = PlanEvaluator(SMALL.problem(1.0))
    for valued in everything(evaluator.problem):
        by_model = evaluator.proxy.by_model(valued.plan)
        assert valued.worst == min(by_model.values())
        assert valued.proxy == evaluator.proxy.quality(valued.plan)


@pytest.mark.parametrize(
    "costs",
    [("macs",), ("bytes", "macs"), ("activation", "bytes"), ("bytes", "macs", "activation")],
)
def test_other_objectives_are_made_small_too(tmp_path: Path, costs: tuple[Cost, ...]) -> None:
    problem = replace(SMALL.problem(0.95), costs=costs)
    found = explored(problem, tmp_path, 100)
    model = CostModel(problem.facts)
    measure = {"bytes": model.bytes, "macs": model.macs, "activation": model.activation}
    assert sorted(v.objectives for v in found.front) == true_front(problem)
    for valued in found.feasible:
        wanted = tuple(measure[cost](valued.plan) / 1e6 for cost in costs)
        assert valued.costs == wanted
    for trial in complete(stored(tmp_path)[0]):
        assert len(trial.values) == len(costs) + 1


def test_a_measured_latency_is_asked_for_once_per_plan_and_kept(tmp_path: Path) -> None:
    problem = replace(SMALL.problem(0.95), costs=("latency",))
    asked: list[SharePlan] = []

    def measured(plan: SharePlan) -> float:
        asked.append(plan)
        return random.random()

    settings = StudySettings("made-up", str(tmp_path / "study.log"), "local", 100, 0)
    first = run_study(PlanEvaluator(problem, measured), settings)
    assert len(asked) == len(set(asked)) == first.trials
    assert run_study(PlanEvaluator(problem, measured), settings) == first  # not measured again
    assert len(asked) == first.trials


# Where to begin.


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_the_first_trial_is_within_any_budget_that_can_be_met(tmp_path: Path, trials: int) -> None:
    least = smallest_plan(MIDDLE.problem(1.0), PlanEvaluator(MIDDLE.problem(1.0)))
    problem = Problem(MIDDLE.facts, MIDDLE.similarities, Limits(bytes=least.bytes))
    found = explored(problem, tmp_path, trials)
    assert [v.plan for v in found.front] == [least.plan]


def test_an_empty_space_holds_one_plan(tmp_path: Path) -> None:
    problem = Problem(SMALL.facts, {}, Limits())
    found = explored(problem, tmp_path, 3)
    assert [v.plan for v in found.front] == [SharePlan()] and found.exhausted
    assert smallest_plan(problem, PlanEvaluator(problem)).plan == SharePlan()


def test_the_starting_plans_are_what_is_known_nothing_and_the_best_of_each_stage() -> None:
    problem = MIDDLE.problem(0.7)
    known = SharePlan(
        (
            max(
                problem.quality_by_share,
                key=lambda s: (s.recipient.stage, -problem.quality_by_share[s]),
            ),
        )
    )
    plans = starting_plans(problem, [known])
    assert plans[:2] == [known, SharePlan()] and len(plans) == len(set(plans))
    for recipient in {share.recipient for share in problem.quality_by_share}:
        choices = [share for share in problem.quality_by_share if share.recipient == recipient]
        assert SharePlan((max(choices, key=lambda s: problem.quality_by_share[s]),)) in plans


def test_every_model_is_tried_as_the_trunk_of_all_others_at_every_depth() -> None:
    problem = MadeUpDeployment({"a": 3, "b": 3, "c": 3}).problem(0.7)
    plans = starting_plans(problem)
    for trunk in "abc":
        others = sorted({"a", "b", "c"} - {trunk})
        prefixes = [
            SharePlan(tuple(Share(Ref(o, s), Ref(trunk, s), LINEAR) for o in others))
            for s in ("s2", "s1", "s0")
        ]
        places = [plans.index(prefix) for prefix in prefixes]
        assert places == sorted(places)


def test_what_the_space_does_not_hold_is_left_out_of_the_starting_plans() -> None:
    elsewhere = Share(Ref("gone", "s1"), Ref("a", "s1"))
    assert starting_plans(SMALL.problem(1.0), [SharePlan((elsewhere,))]) == starting_plans(
        SMALL.problem(1.0)
    )
    assert len(starting_plans(Problem(SMALL.facts, {}), [SharePlan((elsewhere,))])) == 1


def test_greedy_takes_share_after_share_and_each_step_is_a_plan_of_the_space() -> None:
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
    tried = [t.user_attrs["claim"][0] for t in complete(stored(tmp_path)[0])]
    assert tried[: len(starts)] == [plan.hash for plan in starts]


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
    assert least.bytes == min(v.bytes for v in everything(problem))


@pytest.mark.parametrize("seed", range(6))
def test_before_a_budget_is_refused_a_large_space_is_descended_from_every_share(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "search.study.smallest_plan.MAX_ENUMERATED", 0
    )  # take this space for a large one
    problem = MadeUpDeployment({"a": 4, "b": 3}, {"b": (0, 2)}, seed).problem(1.0)
    least = min(valued.bytes for valued in everything(problem))
    assert smallest_plan_thorough(problem, PlanEvaluator(problem)).bytes == least


def test_the_shortlist_takes_the_best_proxies_of_the_layers_next_to_the_front() -> None:
    def valued(size: int, proxy: float) -> EvaluatedPlan:
        share = Share(Ref("b", f"s{size}"), Ref("a", f"s{int(1000 * proxy)}"))
        return EvaluatedPlan(SharePlan((share,)), size, proxy, proxy, (float(size),))

    front_, behind = [valued(1, 0.2), valued(2, 0.9)], [valued(3, 0.85), valued(2, 0.1)]
    third, fourth = [valued(4, 0.8)], [valued(5, 0.7)]
    feasible = (*fourth, *third, *behind, *front_)
    found = StudyResult(tuple(front_), feasible, feasible, (0.0,) * 6, Limits(bytes=9), False)
    assert [v.proxy for v in found.shortlist(4)] == [0.9, 0.85, 0.8, 0.2]
    assert fourth[0] not in found.shortlist(99)
    frugal = replace(found, limits=Limits(quality=0.1))
    assert [v.bytes for v in frugal.shortlist(4)] == [1, 2, 2, 3]


# Claims: two processes, one plan.


def two_claims(tmp_path: Path) -> tuple[optuna.Study, BaseStorage, list[Claims]]:
    storage = open_store(str(tmp_path / "study.log"))
    study = optuna.create_study(storage=storage, directions=["minimize", "maximize"])
    number = storage.get_study_id_from_name(study.study_name)
    claims = [Claims(storage, number) for _ in range(2)]
    for index, one in enumerate(claims):
        one.process = f"another-machine/0/0/{index}/0.0"
    return study, storage, claims


def test_of_two_that_claim_one_plan_at_most_one_has_it(tmp_path: Path) -> None:
    study, _, (mine, theirs) = two_claims(tmp_path)
    first, second = study.ask(), study.ask()
    assert mine.claim(first, "plan")
    assert not theirs.claim(second, "plan")
    assert not theirs.claim(second, "plan")
    assert theirs.claim(second, "another")
    study.tell(first, state=TrialState.FAIL)
    assert theirs.claim(second, "plan")  # a failed trial lets go of its plan
    study.tell(second, (1.0, 1.0))
    third = study.ask()
    assert not mine.claim(third, "plan") and "plan" in mine.evaluated


def test_the_claims_of_a_dead_process_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.study.claims.GRACE_SECONDS", 0.05)
    study, storage, (mine, theirs) = two_claims(tmp_path)
    trial = study.ask()
    assert theirs.claim(trial, "plan")
    mine.fail_dead_trials()  # heard of for the first time: no reason to think it dead
    mine.refresh()
    assert "plan" in mine
    storage.set_study_user_attr(mine.study_id, theirs.process, 1)
    time.sleep(0.1)
    mine.fail_dead_trials()  # it has given a sign of life since
    mine.refresh()
    assert "plan" in mine
    time.sleep(0.1)
    mine.fail_dead_trials()
    mine.refresh()
    assert "plan" not in mine
    with pytest.raises((optuna.exceptions.UpdateFinishedTrialError, ValueError)):
        study.tell(trial, (1.0, 1.0))  # too late: it is not valued twice


def test_a_process_of_this_machine_is_known_to_be_dead_at_once(tmp_path: Path) -> None:
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


def test_nondominated_takes_any_number_of_objectives() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 4):
        points = [tuple(map(float, row)) for row in rng.integers(0, 6, (60, size))]
        kept = nondominated_indices(points)
        for index, point in enumerate(points):
            beaten = any(
                all(a <= b for a, b in zip(other, point, strict=True)) and other != point
                for other in points
            )
            twin = point in [points[k] for k in kept if k != index]
            assert (index in kept) == (not beaten and not twin) or twin
        assert len({points[k] for k in kept}) == len(kept)
    pairs = [(float(a), float(b)) for a, b in rng.integers(0, 9, (50, 2))]
    assert nondominated_indices([(c, -g) for c, g in pairs]) == front_indices(pairs)
