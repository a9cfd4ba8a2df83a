"""The study against enumeration, brute force and chance, on made-up deployments."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tiny import made_up_facts, made_up_similarity

from search.encoding import Encoding
from search.pareto import front, hypervolume
from search.proxy import Proxy
from search.study import (
    Explored,
    Sampler,
    StudySettings,
    Valued,
    Valuer,
    explore,
    smallest,
    smallest_thoroughly,
    starting_plans,
)
from spaces.cost import CostModel
from spaces.facts import layouts_of
from spaces.plan import LINEAR, Ref, Share, SharePlan
from spaces.shares import pairs_of, shares_of

SAMPLERS: tuple[Sampler, ...] = ("nsga2", "tpe", "random")


class World:
    """A made-up deployment with made-up similarities."""

    def __init__(
        self,
        stages: dict[str, int],
        taps: dict[str, tuple[int, ...]] | None = None,
        seed: int = 0,
        every: int = 1,
    ) -> None:
        self.facts = made_up_facts(stages, taps or {}, seed)
        layouts = layouts_of(self.facts)
        shares = shares_of(pairs_of(self.facts).legal, self.facts, (LINEAR,))[::every]
        self.encoding = Encoding(layouts, shares)
        self.costs = CostModel(self.facts)
        self.worth: dict[Share, float] = made_up_similarity(shares, seed)
        self.valuer = Valuer(self.costs, Proxy(self.worth, layouts))

    def budget(self, share: float) -> int:
        return int(self.costs.unmerged_bytes * share)

    def everything(self) -> list[Valued]:
        """All plans of the space, each once."""
        slots = self.encoding.slots
        names = [slot.name for slot in slots]
        plans = {
            self.encoding.decode(dict(zip(names, chosen, strict=True)))
            for chosen in product(*(slot.choices for slot in slots))
        }
        return [self.valuer.value(plan) for plan in plans]

    def explored(
        self, folder: Path, budget: int, trials: int, seed: int = 0, sampler: Sampler = "nsga2"
    ) -> Explored:
        folder.mkdir(exist_ok=True)
        settings = StudySettings("made-up", folder / "study.log", sampler, trials, seed)
        least = smallest(self.encoding, self.valuer).plan
        return explore(self.encoding, self.valuer, budget, settings, least)


SMALL = World({"a": 2, "b": 2})


def values(found: Explored) -> list[tuple[int, float]]:
    return [(v.bytes, v.proxy) for v in found.front]


def test_on_a_small_space_the_study_finds_the_front_that_enumeration_finds(tmp_path: Path) -> None:
    assert SMALL.encoding.size == 25
    budget = SMALL.budget(0.9)
    points = [(v.bytes, v.proxy) for v in SMALL.everything() if v.bytes <= budget]
    wanted = [points[i] for i in front(points)]
    assert len(wanted) >= 3
    assert values(SMALL.explored(tmp_path, budget, 150)) == wanted


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_explores_within_the_budget(tmp_path: Path, sampler: Sampler) -> None:
    world = World({"a": 4, "det": 4}, {"det": (1, 3)})
    budget = world.budget(0.7)
    found = world.explored(tmp_path, budget, 40, sampler=sampler)
    assert found.trials == 40 and len(found.progress) == 40
    assert found.front and all(v.bytes <= budget for v in (*found.front, *found.feasible))
    assert set(found.front) <= set(found.feasible)
    assert found.distinct >= len(found.feasible)
    rising = sorted(found.front, key=lambda v: v.bytes)
    assert list(found.front) == rising
    assert all(a.proxy < b.proxy for a, b in pairwise(rising))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_finds_the_same(tmp_path: Path, sampler: Sampler) -> None:
    world = World({"a": 5, "det": 5}, {"det": (2, 4)})
    budget = world.budget(0.7)
    one, same, other = (
        world.explored(tmp_path / str(k), budget, 50, seed, sampler)
        for k, seed in enumerate((1, 1, 2))
    )
    assert one == same
    assert one.progress != other.progress


def test_progress_is_the_hypervolume_so_far_and_never_falls(tmp_path: Path) -> None:
    world = World({"a": 4, "det": 4}, {"det": (1, 3)})
    budget = world.budget(0.7)
    found = world.explored(tmp_path, budget, 40)
    assert all(b >= a for a, b in pairwise(found.progress))
    area = hypervolume([(v.bytes / budget, v.proxy) for v in found.front], (1.0, 0.0))
    assert found.progress[-1] == pytest.approx(area) and 0 < area < 1


def test_nsga2_beats_chance_at_equal_trials(tmp_path: Path) -> None:
    world = World({"a": 9, "det": 9}, {"det": (4, 6, 8)}, seed=1)
    assert world.encoding.size > 100_000
    budget = world.budget(0.6)
    volumes = {
        sampler: [
            world.explored(tmp_path, budget, 120, seed, sampler).progress[-1] for seed in range(5)
        ]
        for sampler in ("nsga2", "random")
    }
    assert np.mean(volumes["nsga2"]) > 1.03 * np.mean(volumes["random"])


def stored(folder: Path) -> list[optuna.Study]:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return [
        optuna.load_study(study_name=name, storage=storage)
        for name in optuna.get_all_study_names(storage)
    ]


def test_trials_over_the_budget_are_complete_and_marked(tmp_path: Path) -> None:
    budget = SMALL.budget(0.6)
    found = SMALL.explored(tmp_path, budget, 40)
    (study,) = stored(tmp_path)
    assert {t.state for t in study.trials} == {optuna.trial.TrialState.COMPLETE}
    over = 0
    for trial in study.trials:
        (violation,) = trial.constraints.values()
        megabytes = trial.values[0]
        assert (violation > 0) == (megabytes > budget / 1e6)
        over += violation > 0
    assert 0 < over < 40
    assert len({v.plan for v in found.feasible}) <= 40 - over


def test_running_again_with_more_trials_adds_only_the_difference(tmp_path: Path) -> None:
    budget = SMALL.budget(0.9)
    first = SMALL.explored(tmp_path, budget, 20)
    told: list[int] = []
    settings = StudySettings("made-up", tmp_path / "study.log", "nsga2", 32, 0)
    least = smallest(SMALL.encoding, SMALL.valuer).plan
    second = explore(SMALL.encoding, SMALL.valuer, budget, settings, least, told.append)
    assert (first.trials, second.trials, sum(told)) == (20, 32, 12)
    assert second.progress[:20] == first.progress
    again = SMALL.explored(tmp_path, budget, 32)
    assert again == second
    assert SMALL.explored(tmp_path, budget, 5) == second  # what is there is not thrown away


def test_another_budget_seed_sampler_or_similarity_is_another_study(tmp_path: Path) -> None:
    SMALL.explored(tmp_path, SMALL.budget(0.9), 5)
    SMALL.explored(tmp_path, SMALL.budget(0.8), 5)
    SMALL.explored(tmp_path, SMALL.budget(0.9), 5, seed=1)
    SMALL.explored(tmp_path, SMALL.budget(0.9), 5, sampler="random")
    changed = World({"a": 2, "b": 2})
    changed.valuer = Valuer(
        changed.costs,
        Proxy({s: v * 0.9 for s, v in changed.worth.items()}, SMALL.encoding.layouts),
    )
    changed.explored(tmp_path, SMALL.budget(0.9), 5)
    complete = (optuna.trial.TrialState.COMPLETE,)
    assert [len(s.get_trials(states=complete)) for s in stored(tmp_path)] == [5] * 5


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_the_first_trial_is_within_any_budget_that_can_be_met(tmp_path: Path, trials: int) -> None:
    world = World({"a": 4, "det": 4}, {"det": (1, 3)})
    least = smallest(world.encoding, world.valuer)
    found = world.explored(tmp_path, least.bytes, trials)
    assert [v.plan for v in found.front] == [least.plan]


def test_an_empty_space_holds_one_plan(tmp_path: Path) -> None:
    world = World({"a": 2, "b": 2}, every=10_000)
    empty = Encoding(world.encoding.layouts, [])
    settings = StudySettings("made-up", tmp_path / "study.log", "nsga2", 3, 0)
    found = explore(empty, world.valuer, world.budget(1.0), settings)
    assert [v.plan for v in found.front] == [SharePlan()] and found.distinct == 1
    assert smallest(empty, world.valuer).plan == SharePlan()


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
    world = World(stages, taps, seed)
    assert world.encoding.size < 5_000
    least = smallest(world.encoding, world.valuer)
    assert least.bytes == min(v.bytes for v in world.everything())


def test_the_starting_plans_hold_nothing_and_each_slots_best_and_deepest() -> None:
    world = World({"a": 4, "det": 4}, {"det": (1, 3)})
    plans = starting_plans(world.encoding, world.valuer)
    assert plans[0] == SharePlan() and len(plans) == len(set(plans))
    for slot in world.encoding.slots:
        shares = [s for s in slot.choices.values() if s]
        best = max(shares, key=lambda s: world.worth[s])
        assert SharePlan((best,)) in plans


@pytest.mark.parametrize("seed", range(6))
def test_before_a_budget_is_refused_a_large_space_is_descended_from_every_share(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.LOOKED_THROUGH", 0)  # take this space for a large one
    world = World({"a": 4, "b": 3}, {"b": (0, 2)}, seed)
    least = min(valued.bytes for valued in world.everything())
    assert smallest_thoroughly(world.encoding, world.valuer).bytes == least


def test_each_plan_is_valued_once() -> None:
    world = World({"a": 3, "b": 3})
    plan = world.encoding.decode(
        {slot.name: list(slot.choices)[1] for slot in world.encoding.slots}
    )
    assert world.valuer.value(plan) is world.valuer.value(SharePlan(plan.shares))
    valued = world.valuer.value(plan)
    assert valued.bytes == world.costs.bytes(plan)
    assert valued.proxy == world.valuer.proxy.quality(plan)


def test_the_shortlist_takes_the_best_proxies_of_the_layers_next_to_the_front() -> None:
    def valued(size: int, proxy: float) -> Valued:
        share = Share(Ref("b", f"s{size}"), Ref("a", f"s{int(1000 * proxy)}"))
        return Valued(SharePlan((share,)), size, proxy)

    front_, behind = [valued(1, 0.2), valued(2, 0.9)], [valued(3, 0.85), valued(2, 0.1)]
    third, fourth = [valued(4, 0.8)], [valued(5, 0.7)]
    found = Explored(tuple(front_), (*fourth, *third, *behind, *front_), (), 6, 6)
    assert [v.proxy for v in found.shortlist(4)] == [0.9, 0.85, 0.8, 0.2]
    assert fourth[0] not in found.shortlist(99)
