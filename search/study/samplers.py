"""Samplers, which propose the next plan: Optuna's, and two of this project."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.study.claims import Claims
from search.study.pareto import dominates
from search.study.problem import Problem, SamplerName
from search.study.search_space import PRECISION, SearchSpace, Slot
from spaces.liveness import Layouts
from spaces.plan import Ref, Share, SharePlan

SpaceStatus = Literal["fresh", "claimed", "exhausted"]
"""Whether the last proposal is a new plan; if not, whether other processes still evaluate some of
the remaining plans, or all plans have been evaluated."""
MAX_PROPOSALS = 10
"""Limit on the proposals that are taken from the inner sampler until one is new."""
MAX_CHANGES = 40
"""Limit on the random changes that are then made to the last proposal until it is new."""


def make_sampler(name: SamplerName, problem: Problem, seed: int) -> BaseSampler:
    """Return the sampler of that name."""
    if name == "local":
        return LocalSampler(problem, seed)
    if name == "nsga2":
        return NSGAIISampler(seed=seed)
    if name == "tpe":
        return TPESampler(seed=seed, multivariate=True)
    return RandomSampler(seed=seed)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the distributions of the space's parameters, as Optuna wants them."""
    return {name: CategoricalDistribution(keys) for name, keys in space.choices.items()}


class LocalSampler(BaseSampler):
    """Local search around the front: changes one of its members a little.

    Most changes move one share by a stage, at the donor, the recipient or both: neighbouring
    stages have similar representations, so the neighbours of a good plan are often good. Other
    changes draw a new share for a slot, half of them the best of a few, or mix two members.
    """

    MOVE = 0.65
    """Chance to move a share instead of drawing one."""
    MIX = 0.2
    """Chance to mix two members of the front."""
    ANOTHER_SLOT = 0.1
    """Chance to change one more slot."""
    GUIDED = 0.5
    """Chance that a draw is the best of several."""
    GUIDED_DRAWS = 3
    """Number of draws; the share that keeps most quality is taken."""

    def __init__(self, problem: Problem, seed: int) -> None:
        space = problem.space
        self.slots = {slot.name: slot for slot in space.slots}
        self.choices = space.choices
        self.neighbours: dict[str, dict[str, list[str]]] = {
            slot.name: _Neighbours(slot, space.layouts) for slot in space.slots
        }
        if PRECISION in self.choices:
            self.neighbours[PRECISION] = _profile_neighbours(self.choices[PRECISION])
        self.quality_by_share = problem.quality_by_share
        self.rng = random.Random(seed)
        self.front = FrontMembers()

    def reseed_rng(self) -> None:
        self.rng.seed()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.front.update(study)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {name: CategoricalDistribution(keys) for name, keys in self.choices.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a changed member of the front."""
        members = self.front.members
        if not members or not self.choices:
            return {name: self._draw(name) for name in self.choices}
        changed = dict(self.rng.choice(members))
        if self.rng.random() < self.MIX:
            other = self.rng.choice(members)
            changed = {
                name: self.rng.choice((changed[name], other[name])) for name in self.choices
            }
        for name in self._draw_slots():
            neighbours = self.neighbours[name][changed[name]]
            move = neighbours and self.rng.random() < self.MOVE
            changed[name] = self.rng.choice(neighbours) if move else self._draw(name)
        return changed

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._draw(param_name)

    def _draw(self, slot: str) -> str:
        if slot == PRECISION or self.rng.random() >= self.GUIDED:
            return self.rng.choice(self.choices[slot])
        drawn = [self.rng.choice(self.choices[slot]) for _ in range(self.GUIDED_DRAWS)]
        return max(drawn, key=lambda key: self._quality(slot, key))

    def _quality(self, slot: str, key: str) -> float:
        share = self.slots[slot].choices[key]
        return 0.0 if share is None else self.quality_by_share[share]

    def _draw_slots(self) -> list[str]:
        count = 1
        while count < len(self.choices) and self.rng.random() < self.ANOTHER_SLOT:
            count += 1
        return self.rng.sample(list(self.choices), count)


class FrontMembers:
    """Parameters of the non-dominated trials; while none is feasible, of the nearest to it."""

    def __init__(self) -> None:
        self.members: list[dict[str, Any]] = []
        self._merits: list[tuple[float, ...]] = []
        self._pending: set[int] = set()
        """Numbers of the trials that are not finished, or were not read yet."""
        self._trials_read = 0

    def update(self, study: Study) -> None:
        """Add the trials that have completed since the last call."""
        signs = [1.0 if direction.name == "MINIMIZE" else -1.0 for direction in study.directions]
        trials = study.get_trials(deepcopy=False)
        self._pending |= set(range(self._trials_read, len(trials)))
        self._trials_read = len(trials)
        for number in sorted(self._pending):
            trial = trials[number]
            if trial.state == TrialState.COMPLETE:
                violation = sum(max(0.0, value) for value in trial.constraints.values())
                objectives = (s * v for s, v in zip(signs, trial.values, strict=True))
                self._add(trial.params, (violation, *(objectives if not violation else ())))
            if trial.state.is_finished():
                self._pending.remove(number)

    def _add(self, parameters: dict[str, Any], merit: tuple[float, ...]) -> None:
        """Add a trial if no member is better; drop the members that it dominates.

        A merit is (violation, *objectives) if feasible, else (violation,); all are minimised.
        """
        if any(_is_better(other, merit) or other == merit for other in self._merits):
            return
        remaining = [k for k, other in enumerate(self._merits) if not _is_better(merit, other)]
        self.members = [self.members[k] for k in remaining] + [parameters]
        self._merits = [self._merits[k] for k in remaining] + [merit]


def _is_better(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    if one[0] != other[0]:
        return one[0] < other[0]
    return dominates(one, other)


class _Neighbours(dict[str, list[str]]):
    """The choices of a slot that are at most a stage away from each choice.

    They are found when they are first asked for: of all choices they would take longer than tens
    of trials.
    """

    def __init__(self, slot: Slot, layouts: Layouts) -> None:
        super().__init__()
        self.slot, self.layouts = slot, layouts

    def __missing__(self, key: str) -> list[str]:
        share = self.slot.choices[key]
        self[key] = [
            other
            for other, near in self.slot.choices.items()
            if share is not None
            and near is not None
            and other != key
            and _distance(near, share, self.layouts) <= 1
        ]
        return self[key]


def _profile_neighbours(keys: Sequence[str]) -> dict[str, list[str]]:
    """Return, for each precision profile, those of slightly more and slightly fewer bytes."""
    return {
        key: [*keys[max(0, number - 1) : number], *keys[number + 1 : number + 2]]
        for number, key in enumerate(keys)
    }


def _distance(one: Share, other: Share, layouts: Layouts) -> int:
    """Return the stages between two shares of a slot.

    If their donor models differ, return the number of stages of a model.
    """

    def stages_between(a: Ref, b: Ref) -> int:
        layout = layouts[a.model]
        return abs(layout.index(a.stage) - layout.index(b.stage))

    if one.donor.model != other.donor.model:
        return len(layouts[one.donor.model].stages)
    return max(
        stages_between(one.donor, other.donor), stages_between(one.recipient, other.recipient)
    )


class UniquePlanSampler(BaseSampler):
    """Proposes only plans that are neither evaluated nor claimed yet.

    The starting plans come first. Then it takes proposals from an inner sampler. If none of a few
    is new (a converged population in a finite space), it changes the last one slot by slot until
    it is new; if that fails, it enumerates the space. `status` says whether a new plan was left.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: SearchSpace,
        claims: Claims,
        starts: Sequence[SharePlan],
        seed: int,
    ) -> None:
        self.inner = inner
        self.space = space
        self.distributions = distributions(space)
        self.claims = claims
        self.starts = list(starts)
        self.status: SpaceStatus = "fresh"
        self._rng = random.Random(seed)
        self._enumeration = self._all_parameters()

    def reseed_rng(self) -> None:
        self.inner.reseed_rng()
        self._rng.seed()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a new plan; if there is none, of the unmerged plan."""
        self.status = "fresh"
        self.claims.refresh()  # what others have claimed since the last trial
        self.starts = [plan for plan in self.starts if plan.hash not in self.claims.evaluated]
        for plan in self.starts:
            if plan.hash not in self.claims:
                return dict(self.space.encode(plan))
        for parameters in self._proposals(study, trial, search_space):
            if self._is_new(parameters):
                return parameters
        return self._next_by_enumeration()

    def _proposals(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Iterator[dict[str, Any]]:
        proposed: dict[str, Any] = {}
        for attempt in range(MAX_PROPOSALS):
            if attempt == 1:  # read once, with the inner sampler's attributes on the trial
                trial = study.get_trials(deepcopy=False)[trial.number]
            drawn = self.inner.sample_relative(study, trial, search_space)
            proposed = {
                name: drawn[name]
                if name in drawn
                else self.inner.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }
            yield proposed
        for _ in range(MAX_CHANGES):
            name = self._rng.choice(tuple(self.space.choices))
            proposed = {**proposed, name: self._rng.choice(self.space.choices[name])}
            yield proposed

    def _is_new(self, parameters: Mapping[str, str]) -> bool:
        return self.space.decode(parameters).hash not in self.claims

    def _next_by_enumeration(self) -> dict[str, Any]:
        """Return the next new plan of the space, and set `status` if there is none.

        A plan that was claimed when the enumeration passed it may be free again. So only a second
        enumeration, from start to end, shows that nothing is left.
        """
        claimed = False
        for enumeration in (self._enumeration, self._all_parameters()):
            self._enumeration, claimed = enumeration, False
            for parameters in enumeration:
                plan = self.space.decode(parameters).hash
                if plan not in self.claims:
                    return parameters
                claimed |= plan in self.claims.running
        self.status = "claimed" if claimed else "exhausted"
        return dict(self.space.encode(SharePlan()))

    def _all_parameters(self) -> Iterator[dict[str, Any]]:
        for keys in itertools.product(*self.space.choices.values()):
            yield dict(zip(self.space.choices, keys, strict=True))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.inner.after_trial(study, trial, state, values)
