"""The only door to Optuna: plans explored under a budget, by proxy quality and bytes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.encoding import Encoding
from search.pareto import front, hypervolume
from search.proxy import Proxy
from spaces.cost import CostModel
from spaces.errors import MergeSearchError
from spaces.plan import SharePlan

Sampler = Literal["nsga2", "tpe", "random"]
MEGABYTE = 1e6
LAYERS = 3
NOTHING_SHARED = SharePlan()
LOOKED_THROUGH = 5_000
"""Spaces of at most so many combinations are enumerated for their smallest plan."""


class DamagedStudy(MergeSearchError):
    """The file that keeps the trials is not one, or was cut."""


@dataclass(frozen=True)
class StudySettings:
    """How the space is explored."""

    name: str
    store: Path
    sampler: Sampler
    trials: int
    seed: int

    def name_for(self, encoding: Encoding, proxy: Proxy, budget: int) -> str:
        """A study goes on only where the same space, worth the same, is explored the same way."""
        worth = sorted((str(share), round(kept, 6)) for share, kept in proxy.kept.items())
        what = f"{encoding.fingerprint} {worth} {budget} {self.sampler} {self.seed}"
        return f"{self.name}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Valued:
    """A plan with what it costs and the quality that the proxy predicts."""

    plan: SharePlan
    bytes: int
    proxy: float


@dataclass(frozen=True)
class Explored:
    """What a study found."""

    front: tuple[Valued, ...]
    """Feasible and non-dominated, by rising bytes."""
    feasible: tuple[Valued, ...]
    """All different plans within the budget that were valued."""
    progress: tuple[float, ...]
    """Hypervolume of the feasible front after each trial, as a share of the whole rectangle."""
    trials: int
    distinct: int
    """How many different plans were valued."""

    def shortlist(self, most: int) -> list[Valued]:
        """The plans to look at more closely: of the outermost layers, the highest proxies.

        The first layer is the front, the next the front of the rest, and so on. What is close
        behind the front may be better than the proxy says; what is cheap but poor does not serve
        a user whose budget is met already.
        """
        rest, near = list(self.feasible), list[Valued]()
        for _ in range(LAYERS):
            layer = [rest[i] for i in front([(v.bytes, v.proxy) for v in rest])]
            near += layer
            rest = [v for v in rest if v not in layer]
        return sorted(near, key=lambda v: (-v.proxy, v.bytes))[:most]


class Valuer:
    """Values plans; each distinct plan once."""

    def __init__(self, costs: CostModel, proxy: Proxy) -> None:
        self.costs = costs
        self.proxy = proxy
        self.known: dict[SharePlan, Valued] = {}

    def value(self, plan: SharePlan) -> Valued:
        """The value of a canonical plan."""
        if plan not in self.known:
            self.known[plan] = Valued(plan, self.costs.bytes(plan), self.proxy.quality(plan))
        return self.known[plan]


def explore(
    encoding: Encoding,
    valuer: Valuer,
    budget: int,
    settings: StudySettings,
    least: SharePlan = NOTHING_SHARED,
    progress: Callable[[int], None] = lambda trials: None,
) -> Explored:
    """Run the study to its number of trials; one that was interrupted goes on where it stood.

    Objectives: megabytes down, proxy quality up. The budget is a constraint, normalised.
    `least` is a plan known to be small: tried first, it makes sure that something is feasible.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open(settings, settings.name_for(encoding, valuer.proxy, budget))
    if not study.trials:
        for plan in dict.fromkeys((least, *starting_plans(encoding, valuer))):
            study.enqueue_trial(encoding.encode(plan))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        parameters = {
            slot.name: trial.suggest_categorical(slot.name, tuple(slot.choices))
            for slot in encoding.slots
        }
        valued = valuer.value(encoding.decode(parameters))
        trial.set_constraint("bytes over budget", valued.bytes / budget - 1.0)
        trial.set_user_attr("plan", valued.plan.hash)
        return valued.bytes / MEGABYTE, valued.proxy

    finished = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    study.optimize(
        objective,
        n_trials=max(0, settings.trials - len(finished)),
        callbacks=[lambda study, trial: progress(1)],
    )
    return _explored(study, encoding, valuer, budget)


def starting_plans(encoding: Encoding, valuer: Valuer) -> list[SharePlan]:
    """Plans worth trying first: nothing shared, and each slot's most similar deep share."""
    plans = [SharePlan()]
    for slot in encoding.slots:
        shares = [share for share in slot.choices.values() if share is not None]
        best = sorted(shares, key=lambda s: -valuer.proxy.kept[s])[:1]
        layout = encoding.layouts[slot.name.partition(":")[0]]
        deepest = sorted(
            shares,
            key=lambda s: (-layout.index(s.recipient.stage), -valuer.proxy.kept[s]),
        )[:1]
        plans += [encoding.decode(encoding.encode(SharePlan((s,)))) for s in (*best, *deepest)]
    return list(dict.fromkeys(plans))


def smallest(encoding: Encoding, valuer: Valuer) -> Valued:
    """The plan of fewest bytes that the space is known to hold.

    A small space is looked through. In a large one: coordinate descent on bytes alone, starting
    from nothing shared. On equal bytes the better proxy wins.
    """
    found = valuer.value(SharePlan())
    if encoding.size <= LOOKED_THROUGH:
        names = [slot.name for slot in encoding.slots]
        for chosen in itertools.product(*(slot.choices for slot in encoding.slots)):
            plan = encoding.decode(dict(zip(names, chosen, strict=True)))
            found = min(found, valuer.value(plan), key=_by_bytes)
        return found
    for order in _trunk_orders(encoding):
        found = min(found, _descend(encoding, valuer, order, SharePlan()), key=_by_bytes)
    return found


def smallest_thoroughly(encoding: Encoding, valuer: Valuer) -> Valued:
    """As `smallest`, but a large space is descended from every single share: before a budget is
    refused, seconds do not matter."""
    found = smallest(encoding, valuer)
    if encoding.size <= LOOKED_THROUGH:
        return found
    shares = [s for slot in encoding.slots for s in slot.choices.values() if s is not None]
    for order in _trunk_orders(encoding):
        for share in shares:
            start = SharePlan((share,))
            found = min(found, _descend(encoding, valuer, order, start), key=_by_bytes)
    return found


def _trunk_orders(encoding: Encoding) -> list[list[str]]:
    """Orders of the slots, each with one model's last: that model is left whole for the others."""
    return [
        [s.name for s in sorted(encoding.slots, key=lambda s: s.name.partition(":")[0] == trunk)]
        for trunk in encoding.layouts
    ]


def _descend(encoding: Encoding, valuer: Valuer, order: Sequence[str], start: SharePlan) -> Valued:
    slots = {slot.name: slot for slot in encoding.slots}
    parameters = encoding.encode(start)
    best = valuer.value(encoding.decode(parameters))
    improved = True
    while improved:
        improved = False
        for name in order:
            for choice in slots[name].choices:
                tried = {**parameters, name: choice}
                valued = valuer.value(encoding.decode(tried))
                if _by_bytes(valued) < _by_bytes(best):
                    parameters, best, improved = tried, valued, True
    return best


def _by_bytes(valued: Valued) -> tuple[int, float]:
    return (valued.bytes, -valued.proxy)


def _open(settings: StudySettings, name: str) -> optuna.Study:
    samplers: Mapping[Sampler, Callable[[], optuna.samplers.BaseSampler]] = {
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=settings.seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=settings.seed, multivariate=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=settings.seed),
    }
    return optuna.create_study(
        study_name=name,
        storage=_storage(settings.store),
        sampler=samplers[settings.sampler](),
        directions=["minimize", "maximize"],
        load_if_exists=True,
    )


def _storage(path: Path) -> JournalStorage:
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedStudy(
            f"study {path}: cannot be read ({error}); remove it to start the search afresh"
        ) from error


def _explored(study: optuna.Study, encoding: Encoding, valuer: Valuer, budget: int) -> Explored:
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    valued = [valuer.value(encoding.decode(trial.params)) for trial in done]
    feasible = list(dict.fromkeys(v for v in valued if v.bytes <= budget))
    kept = [feasible[i] for i in front([(v.bytes, v.proxy) for v in feasible])]
    return Explored(
        front=tuple(kept),
        feasible=tuple(feasible),
        progress=tuple(_progress(valued, budget)),
        trials=len(done),
        distinct=len(set(valued)),
    )


def _progress(valued: Sequence[Valued], budget: int) -> list[float]:
    """The dominated share of the rectangle from (0 bytes, quality 1) to (budget, quality 0)."""
    shares: list[float] = []
    best: list[Valued] = []
    area = 0.0
    for one in valued:
        if one.bytes <= budget and one not in best:
            points = [(v.bytes / budget, v.proxy) for v in (*best, one)]
            best = [(*best, one)[i] for i in front(points)]
            area = hypervolume(points, (1.0, 0.0))
        shares.append(area)
    return shares
