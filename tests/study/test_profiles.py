"""Precision profiles against every assignment of precisions, and how a search uses them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from made_up_precisions import (
    PRECISIONS,
    random_losses,
    stored_in_fewer_bytes,
    with_precision_profiles,
)
from tiny import MadeUpDeployment

from search.study.objectives import PlanEvaluator
from search.study.optimize import StudySettings, run_study
from search.study.precision.profiles import (
    MAX_PROFILES,
    Profile,
    apply_profile,
    precision_profiles,
    weight_owners,
    with_profile_of,
)
from search.study.problem import Problem, SamplerName
from search.study.proxy import Proxy
from search.study.search_space import PRECISION
from search.study.smallest_plan import smallest_plan
from search.study.warm_start import starting_plans
from spaces.liveness import canonical
from spaces.plan import HEAD, Ref, SharePlan

MADE_UP = MadeUpDeployment({"a": 2, "b": 2}, seed=4)
FACTS = stored_in_fewer_bytes(MADE_UP.facts)
SEEDS = range(6)


def problem_of(seed: int, most: int = 4) -> Problem:
    deployment = MadeUpDeployment({"a": 3, "det": 4}, {"det": (1, 3)}, seed)
    return with_precision_profiles(deployment.problem(0.6), seed, most)


def total_bytes(profile: Profile) -> int:
    return sum(
        sum(FACTS[owner.model].tensors_at(owner.stage, precision).values())
        for owner, precision in profile.items()
    )


def noise(profile: Profile, seed: int) -> float:
    losses = random_losses(FACTS, seed)
    return sum(losses.get(entry, 0.0) ** 2 for entry in profile.items())


def all_assignments() -> list[Profile]:
    owners = list(weight_owners(FACTS))
    return [
        dict(zip(owners, chosen, strict=True))
        for chosen in product(PRECISIONS, repeat=len(owners))
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_for_any_price_of_a_byte_a_profile_is_the_best_of_all_assignments(seed: int) -> None:
    profiles = precision_profiles(FACTS, random_losses(FACTS, seed), PRECISIONS, most=99)
    points = np.array([(total_bytes(p), noise(p, seed)) for p in all_assignments()])
    own = np.array([(total_bytes(p), noise(p, seed)) for p in profiles])
    for price in np.logspace(-12, -2, 60):
        weights = np.array([price, 1.0])
        assert (own @ weights).min() == pytest.approx((points @ weights).min(), rel=1e-9)


@pytest.mark.parametrize("most", [3, 5, 99])
@pytest.mark.parametrize("seed", SEEDS)
def test_profiles_go_from_the_smallest_loss_to_the_fewest_bytes(seed: int, most: int) -> None:
    profiles = precision_profiles(FACTS, random_losses(FACTS, seed), PRECISIONS, most)
    assert len(profiles) <= most
    assert all(total_bytes(a) > total_bytes(b) for a, b in pairwise(profiles))
    assert all(noise(a, seed) <= noise(b, seed) for a, b in pairwise(profiles))
    assert noise(profiles[0], seed) == 0.0
    assert set(profiles[-1].values()) == {"int8"}


def test_one_precision_gives_one_profile() -> None:
    (only,) = precision_profiles(FACTS, random_losses(FACTS, 0), ["int8"])
    assert set(only.values()) == {"int8"} and set(only) == set(weight_owners(FACTS))


def test_a_precision_that_loses_nothing_replaces_all_with_more_bytes() -> None:
    losses = {**random_losses(FACTS, 0), (Ref("a", HEAD), "int8"): 0.0}
    for profile in precision_profiles(FACTS, losses, PRECISIONS):
        assert profile[Ref("a", HEAD)] == "int8"


# The proxy.


def test_losses_of_roundings_add_up_as_independent_noise() -> None:
    layouts = MADE_UP.problem(1.0).layouts
    stage, head = Ref("a", layouts["a"].stages[0]), Ref("a", HEAD)
    proxy = Proxy({}, layouts, {(stage, "int8"): 0.03, (head, "int8"): 0.04})
    one, both = {stage: "int8"}, {stage: "int8", head: "int8"}
    assert proxy.by_model(SharePlan().with_precisions(one)) == {"a": 0.97, "b": 1.0}  # type: ignore[arg-type]
    assert proxy.by_model(SharePlan().with_precisions(both))["a"] == pytest.approx(0.95)  # type: ignore[arg-type]


def test_the_noise_of_a_donor_reaches_the_recipient_but_not_that_of_replaced_stages() -> None:
    problem = MADE_UP.problem(1.0)
    share = next(
        s
        for s in problem.quality_by_share
        if (s.donor, s.recipient) == (Ref("a", "s1"), Ref("b", "s1"))
    )
    losses = {(Ref("a", "s0"), "int8"): 0.06, (Ref("b", "s0"), "int8"): 0.5}
    proxy = Proxy({share: 0.9}, problem.layouts, losses)  # type: ignore[arg-type]
    plan = SharePlan((share,), ((Ref("a", "s0"), "int8"),))
    assert proxy.by_model(plan) == pytest.approx({"a": 0.94, "b": 0.9 * 0.94})


# The search space.


@pytest.mark.parametrize("seed", SEEDS)
def test_parameters_of_a_plan_decode_to_it(seed: int) -> None:
    space, rng = problem_of(seed).space, np.random.default_rng(seed)
    assert space.choices[PRECISION] == ("0", "1", "2", "3")
    for _ in range(60):
        parameters = {name: str(rng.choice(keys)) for name, keys in space.choices.items()}
        plan = space.decode(parameters)
        assert space.decode(space.encode(plan)) == plan
        assert canonical(plan, space.layouts) == plan


def test_a_plan_names_only_weights_that_it_holds() -> None:
    problem = problem_of(0)
    profile = dict.fromkeys(weight_owners(problem.facts), "int8")
    share = next(
        s
        for s in problem.quality_by_share
        if (s.donor, s.recipient) == (Ref("det", "s2"), Ref("a", "s2"))
    )
    plan = apply_profile(SharePlan((share,)), profile, problem.facts)  # type: ignore[arg-type]
    named = set(plan.precision_by_owner)
    assert {Ref("a", "s0"), Ref("a", "s1")} & named == set()
    assert {Ref("a", HEAD), Ref("det", "s0"), Ref("det", HEAD)} <= named


def test_the_size_of_the_space_counts_the_profiles() -> None:
    with_choice, without = problem_of(1), replace(problem_of(1), profiles=())
    assert with_choice.space.size == 4 * without.space.size
    assert with_choice.space.fingerprint != without.space.fingerprint


def test_a_problem_with_precisions_survives_json_and_one_without_has_its_old_hash() -> None:
    problem = problem_of(2)
    again = Problem.from_dict(problem.to_dict())
    assert again.hash == problem.hash
    assert PlanEvaluator(again).predict(SharePlan()) == PlanEvaluator(problem).predict(SharePlan())
    plain = MADE_UP.problem(0.6).to_dict()
    assert set(plain) == {"facts", "kept", "limits", "costs"}
    assert all("stored" not in facts for facts in plain["facts"].values())


def test_the_smallest_plan_is_stored_in_the_fewest_bytes() -> None:
    problem = problem_of(3)
    smallest = smallest_plan(problem, PlanEvaluator(problem))
    assert {precision for _, precision in smallest.plan.precisions} == {"int8"}
    without = replace(problem, profiles=())
    shares_only = smallest_plan(without, PlanEvaluator(without))
    assert smallest.bytes < 0.6 * shares_only.bytes


def test_nothing_shared_is_tried_with_every_profile() -> None:
    problem = problem_of(4)
    starts = starting_plans(problem)
    unmerged = [apply_profile(SharePlan(), p, problem.facts) for p in problem.profiles]
    assert starts[: len(unmerged)] == unmerged
    assert len(starts) == len(set(starts))


@pytest.mark.parametrize("sampler", ["local", "nsga2", "random"])
def test_a_study_finds_plans_of_mixed_precision(sampler: SamplerName, tmp_path: Path) -> None:
    problem = problem_of(5)
    settings = StudySettings("mixed", str(tmp_path / "study.log"), sampler, 200, 1)
    found = run_study(PlanEvaluator(problem), settings, starting_plans(problem))
    assert len({plan.plan.precisions for plan in found.evaluated}) > 4
    assert any(plan.plan.shares and plan.plan.precisions for plan in found.front)


def test_a_champion_of_other_precisions_stays_in_the_space() -> None:
    problem = problem_of(1)
    owners = [*weight_owners(problem.facts)]
    mixed = {owner: PRECISIONS[1 + k % 2] for k, owner in enumerate(owners)}
    champion = apply_profile(SharePlan(), mixed, problem.facts)
    profiles = with_profile_of(champion, problem.profiles, problem.facts)
    assert len(profiles) == 1 + len(problem.profiles)
    assert apply_profile(SharePlan(), profiles[0], problem.facts) == champion
    assert with_profile_of(champion, profiles, problem.facts) == profiles


def test_a_champion_of_an_unknown_precision_stays_outside() -> None:
    problem = problem_of(1)
    champion = SharePlan(precisions=((Ref("a", HEAD), "bfloat16"),))
    assert with_profile_of(champion, problem.profiles, problem.facts) == problem.profiles


def test_there_are_at_most_twelve_profiles() -> None:
    assert 4 < len(problem_of(0, most=MAX_PROFILES).profiles) <= MAX_PROFILES
