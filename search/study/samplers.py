"""What is tried next: Optuna's samplers and one for spaces of shares, none twice the same plan."""

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
from search.study.search_space import Encoding, Slot
from spaces.liveness import Layouts
from spaces.plan import Ref, Share, SharePlan

Outlook = Literal["fresh", "claimed", "exhausted"]
PROPOSALS, CHANGES = 10, 40
"""So often the sampler is asked for a new plan, and then what it proposed last is changed."""


def sampler_named(name: SamplerName, problem: Problem, seed: int) -> BaseSampler:
    if name == "local":
        return LocalSampler(problem, seed)
    if name == "nsga2":
        return NSGAIISampler(seed=seed)
    if name == "tpe":
        return TPESampler(seed=seed, multivariate=True)
    return RandomSampler(seed=seed)


def distributions(encoding: Encoding) -> dict[str, BaseDistribution]:
    return {slot.name: CategoricalDistribution(tuple(slot.choices)) for slot in encoding.slots}


class LocalSampler(BaseSampler):
    """Local search around the front: a member of it, changed a little.

    Most changes move one share by a stage, at the donor or the recipient or both, since similar
    stages have similar representations: what lies beside a good plan is often good. Others draw
    a share of a slot, half of them the best of a few by what it keeps alone; or mix two members.
    """

    STEP, MIX, ONE_MORE = 0.65, 0.2, 0.1
    """Chances: to move a share rather than draw one, to mix two members, to change a slot more."""
    GUIDED, FEW = 0.5, 3
    """The chance that a draw is the best of so many."""

    def __init__(self, problem: Problem, seed: int) -> None:
        encoding = problem.encoding
        self.slots = {slot.name: slot for slot in encoding.slots}
        self.choices = {slot.name: tuple(slot.choices) for slot in encoding.slots}
        self.beside = {slot.name: _beside(slot, encoding.layouts) for slot in encoding.slots}
        self.kept = problem.kept
        self.rng = random.Random(seed)
        self.front = Front()

    def reseed_rng(self) -> None:
        self.rng.seed()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.front.learn(study)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {name: CategoricalDistribution(keys) for name, keys in self.choices.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        members = self.front.members
        if not members or not self.slots:
            return {name: self._any(name) for name in self.slots}
        changed = dict(self.rng.choice(members))
        if self.rng.random() < self.MIX:
            other = self.rng.choice(members)
            changed = {name: self.rng.choice((changed[name], other[name])) for name in self.slots}
        for name in self._some_slots():
            near = self.beside[name][changed[name]]
            step = near and self.rng.random() < self.STEP
            changed[name] = self.rng.choice(near) if step else self._any(name)
        return changed

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._any(param_name)

    def _any(self, name: str) -> str:
        if self.rng.random() >= self.GUIDED:
            return self.rng.choice(self.choices[name])
        drawn = [self.rng.choice(self.choices[name]) for _ in range(self.FEW)]
        return max(drawn, key=lambda key: self._kept(name, key))

    def _kept(self, name: str, key: str) -> float:
        share = self.slots[name].choices[key]
        return 0.0 if share is None else self.kept[share]

    def _some_slots(self) -> list[str]:
        count = 1
        while count < len(self.slots) and self.rng.random() < self.ONE_MORE:
            count += 1
        return self.rng.sample(list(self.slots), count)


class Front:
    """The parameters of the trials that no other beats; while none is feasible, of the nearest."""

    def __init__(self) -> None:
        self.members: list[dict[str, Any]] = []
        self._merits: list[tuple[float, ...]] = []
        self._pending: set[int] = set()
        self._read = 0

    def learn(self, study: Study) -> None:
        """Take in what has completed since."""
        signs = [1.0 if direction.name == "MINIMIZE" else -1.0 for direction in study.directions]
        trials = study.get_trials(deepcopy=False)
        self._pending |= set(range(self._read, len(trials)))
        self._read = len(trials)
        for number in sorted(self._pending):
            trial = trials[number]
            if trial.state == TrialState.COMPLETE:
                over = sum(max(0.0, value) for value in trial.constraints.values())
                values = (s * v for s, v in zip(signs, trial.values, strict=True))
                self._add(trial.params, (over, *(values if not over else ())))
            if trial.state.is_finished():
                self._pending.remove(number)

    def _add(self, parameters: dict[str, Any], merit: tuple[float, ...]) -> None:
        """Merits are (violation, *objectives), of infeasible trials (violation,) alone."""
        if any(_beats(other, merit) or other == merit for other in self._merits):
            return
        kept = [k for k, other in enumerate(self._merits) if not _beats(merit, other)]
        self.members = [self.members[k] for k in kept] + [parameters]
        self._merits = [self._merits[k] for k in kept] + [merit]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    if one[0] != other[0]:
        return one[0] < other[0]
    return dominates(one, other)


def _beside(slot: Slot, layouts: Layouts) -> dict[str, list[str]]:
    """For each choice those of the same donor model that are at most a stage away."""
    shares = {key: share for key, share in slot.choices.items() if share is not None}
    return {
        key: [
            other
            for other, near in shares.items()
            if other != key and key in shares and _apart(near, shares[key], layouts) <= 1
        ]
        for key in slot.choices
    }


def _apart(one: Share, other: Share, layouts: Layouts) -> int:
    """Stages between two shares of one slot; far, if their donors are different models."""

    def between(a: Ref, b: Ref) -> int:
        layout = layouts[a.model]
        return abs(layout.index(a.stage) - layout.index(b.stage))

    if one.donor.model != other.donor.model:
        return len(layouts[one.donor.model].stages)
    return max(between(one.donor, other.donor), between(one.recipient, other.recipient))


class Fresh(BaseSampler):
    """A sampler that proposes no plan that is valued or being valued already.

    First come the starting plans. Then the inner sampler is asked a few times. If all that is
    known (a converged population in a finite space), its last proposal is changed slot by slot
    until it is new; and if that does not help, the whole space is walked through. `outlook` says
    when that has ended.
    """

    def __init__(
        self,
        inner: BaseSampler,
        encoding: Encoding,
        claims: Claims,
        starts: Sequence[SharePlan],
        seed: int,
    ) -> None:
        self.inner = inner
        self.encoding = encoding
        self.claims = claims
        self.starts = list(starts)
        self.outlook: Outlook = "fresh"
        self._rng = random.Random(seed)
        self._walk = self._all()

    def reseed_rng(self) -> None:
        self.inner.reseed_rng()
        self._rng.seed()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return distributions(self.encoding)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What to try; if there is nothing left, anything, and `outlook` says so."""
        self.outlook = "fresh"
        self.starts = [plan for plan in self.starts if plan.hash not in self.claims.valued]
        for plan in self.starts:
            if plan.hash not in self.claims:
                return dict(self.encoding.encode(plan))
        for parameters in self._proposals(study, trial, search_space):
            if self._is_new(parameters):
                return parameters
        return self._walked()

    def _proposals(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Iterator[dict[str, Any]]:
        proposed: dict[str, Any] = {}
        for tried in range(PROPOSALS):
            if tried == 1:  # as the inner one has marked it; a database is not asked each time
                trial = study.get_trials(deepcopy=False)[trial.number]
            drawn = self.inner.sample_relative(study, trial, search_space)
            proposed = {
                name: drawn[name]
                if name in drawn
                else self.inner.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }
            yield proposed
        for _ in range(CHANGES):
            slot = self._rng.choice(self.encoding.slots)
            proposed = {**proposed, slot.name: self._rng.choice(tuple(slot.choices))}
            yield proposed

    def _is_new(self, parameters: Mapping[str, str]) -> bool:
        return self.encoding.decode(parameters).hash not in self.claims

    def _walked(self) -> dict[str, Any]:
        """The next new plan of the whole space.

        What was claimed, by others or in vain by us, when the walk came past may be free again:
        only a walk that begins and ends now says that there is nothing left.
        """
        claimed = False
        for walk in (self._walk, self._all()):
            self._walk, claimed = walk, False
            for parameters in walk:
                plan = self.encoding.decode(parameters).hash
                if plan not in self.claims:
                    return parameters
                claimed |= plan in self.claims.running
        self.outlook = "claimed" if claimed else "exhausted"
        return dict(self.encoding.encode(SharePlan()))

    def _all(self) -> Iterator[dict[str, Any]]:
        names = [slot.name for slot in self.encoding.slots]
        for chosen in itertools.product(*(slot.choices for slot in self.encoding.slots)):
            yield dict(zip(names, chosen, strict=True))

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
