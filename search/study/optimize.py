"""The only door to Optuna, with the `study_*` modules beside it: plans explored by trials.

No trial is spent on a plan that has been valued; any number of processes may work on one study;
whatever is killed when, what was valued is kept, and starting again goes on from there.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.study.claims import Claims
from search.study.objectives import PlanEvaluator, Valued
from search.study.pareto import front, hypervolume, nondominated
from search.study.problem import Limits, Problem, SamplerName
from search.study.samplers import Fresh, distributions, sampler_named
from search.study.storage import open_known_store, open_store, speaking_for
from search.utils.progress import Progress, silent
from spaces.errors import MergeSearchError
from spaces.plan import SharePlan

LAYERS = 3
PROBLEM, SETTINGS, STARTS = "problem", "settings", "starts"
WAIT = 0.2
"""Seconds between looks at what other processes are still valuing."""
Showing = Callable[[int], AbstractContextManager[Progress]]


def hidden(trials: int) -> AbstractContextManager[Progress]:
    """Nobody watches."""
    return contextlib.nullcontext(silent)


class NoSuchStudy(MergeSearchError):
    """The store holds no study of that name."""


@dataclass(frozen=True)
class StudySettings:
    """How the space is explored, and where its trials are kept."""

    name: str
    store: str
    """A file's path, or a postgresql:// URL."""
    sampler: SamplerName
    trials: int
    seed: int

    def study_name(self, problem: Problem) -> str:
        """A study goes on only where the same problem is explored the same way."""
        return f"{self.name}-{problem.hash}-{self.sampler}-{self.seed}"


@dataclass(frozen=True)
class Explored:
    """What a study found."""

    front: tuple[Valued, ...]
    """Feasible and non-dominated in all objectives, by rising bytes."""
    valued: tuple[Valued, ...]
    """All plans that were valued, one per trial, in their order."""
    feasible: tuple[Valued, ...]
    """Those within the limits."""
    progress: tuple[float, ...]
    """After each trial, the share of the rectangle from (0 bytes, quality 1) to (budget, or the
    unmerged bytes, quality 0) that the feasible plans dominate."""
    limits: Limits
    exhausted: bool
    """All plans of the space have been valued."""

    @property
    def trials(self) -> int:
        """How many plans were valued; each took one trial."""
        return len(self.valued)

    def shortlist(self, most: int) -> list[Valued]:
        """The plans to look at more closely: of the outermost layers, the highest proxies; or
        the fewest bytes, where those are asked for.

        The first layer is the front, the next the front of the rest, and so on. What is close
        behind the front may be better than the proxy says; what is cheap but poor does not serve
        a user whose budget is met already.
        """
        rest, near = list(self.feasible), list[Valued]()
        for _ in range(LAYERS):
            layer = [rest[i] for i in nondominated([v.objectives for v in rest])]
            near += layer
            rest = [v for v in rest if v not in layer]
        if self.limits.want_bytes:
            return sorted(near, key=lambda v: (v.bytes, -v.proxy))[:most]
        return sorted(near, key=lambda v: (-v.proxy, v.bytes))[:most]


def explore(
    valuer: PlanEvaluator,
    settings: StudySettings,
    starts: Sequence[SharePlan] = (),
    progress: Progress = silent,
) -> Explored:
    """Value plans until the study has its number of trials, or the space no other plan.

    `starts` are tried first, in their order. A study that was interrupted goes on.

    Raises:
        StoreFailed: the store cannot be reached, or takes no more; what it has is kept.
        DamagedStudy: the file that keeps the trials is not one.
    """
    problem = valuer.problem
    with speaking_for(settings.store):
        storage = open_store(settings.store)
        study = _open(storage, settings.study_name(problem), problem)
        if SETTINGS not in study.user_attrs:
            study.set_user_attr(PROBLEM, problem.to_dict())
            study.set_user_attr(STARTS, [plan.to_dict() for plan in starts])
        study.set_user_attr(SETTINGS, asdict(replace(settings, store="")))
        exhausted = _Worker(storage, study, valuer, settings, starts).work(progress)
        return _explored(study, valuer, exhausted)


def join(store: str, name: str, showing: Showing = hidden) -> int:
    """Help a running search from another process; returns how many plans were valued here.

    `showing` is given the number of trials that the search wants, of all processes together.

    Raises:
        NoSuchStudy: the store holds none of that name, or none that `explore` opened.
        NotMeasuredHere: the study makes a measured latency small.
        StoreFailed, DamagedStudy: as `explore`.
    """
    with speaking_for(store):
        storage = open_known_store(store)
        study = _begun(storage, name)
        valuer, settings, starts = _told(study)
        valuer.value(SharePlan())  # refuses, before any trial, what cannot be valued here
        worker = _Worker(storage, study, valuer, settings, starts)
        with showing(settings.trials) as progress:
            worker.work(progress)
        return worker.valued


def _begun(storage: BaseStorage, name: str) -> optuna.Study:
    known = [study.study_name for study in storage.get_all_studies()]
    if name not in known:
        raise NoSuchStudy(
            f"{name!r} is no study of this store; it holds {', '.join(known) or 'none'}"
        )
    return optuna.load_study(study_name=name, storage=storage)


def _told(study: optuna.Study) -> tuple[PlanEvaluator, StudySettings, list[SharePlan]]:
    """What `explore` has told all who join."""
    told = study.user_attrs
    if not {PROBLEM, STARTS, SETTINGS} <= told.keys():
        raise NoSuchStudy(
            f"{study.study_name!r} was not begun by merge-search, or has only just begun"
        )
    try:
        settings = StudySettings(**{**told[SETTINGS], "seed": random.randrange(2**32)})
        starts = [SharePlan.from_dict(plan) for plan in told[STARTS]]
        return PlanEvaluator(Problem.from_dict(told[PROBLEM])), settings, starts
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoSuchStudy(
            f"{study.study_name!r} was begun by another version of merge-search ({error!r})"
        ) from error


class _Worker:
    """One process at work on a study."""

    def __init__(
        self,
        storage: BaseStorage,
        study: optuna.Study,
        valuer: PlanEvaluator,
        settings: StudySettings,
        starts: Sequence[SharePlan],
    ) -> None:
        problem = valuer.problem
        number = storage.get_study_id_from_name(study.study_name)
        self.study = study
        self.valuer = valuer
        self.encoding = problem.encoding
        self.claims = Claims(storage, number)
        self.wanted = settings.trials
        self.valued = 0
        inner = sampler_named(settings.sampler, problem, settings.seed)
        self.sampler = Fresh(inner, self.encoding, self.claims, starts, settings.seed)
        study.sampler = self.sampler

    def work(self, progress: Progress) -> bool:
        """Value plans until all that is wanted is there; returns whether the space is exhausted.

        What other processes are still valuing is waited for; if one of them dies, it is done here.
        """
        self.claims.refresh()
        done = 0
        with self.claims.alive():
            while True:
                progress(len(self.claims.valued) - done)
                done = len(self.claims.valued)
                if done >= self.wanted:
                    return False
                if done and not self.encoding.slots:  # Optuna asks no sampler to choose nothing
                    return True
                if len(self.claims) >= self.wanted or not self._one_trial():
                    if self.sampler.outlook == "exhausted":
                        return True
                    self._wait()

    def _one_trial(self) -> bool:
        """Value one plan; False if another process was faster, or nothing is left to claim."""
        trial = self.study.ask(distributions(self.encoding))
        try:
            plan = self.encoding.decode(trial.params)
            mine = self.sampler.outlook == "fresh" and self.claims.take(trial, plan.hash)
            if mine and len(self.claims) <= self.wanted:  # two may begin the last one at once
                return self._value(trial, plan)
            self.study.tell(trial, state=TrialState.FAIL)
            return False
        except BaseException:
            with contextlib.suppress(Exception):
                self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise

    def _value(self, trial: optuna.Trial, plan: SharePlan) -> bool:
        """Value the plan that the trial claims; False if we were so slow as to be thought dead."""
        valued = self.valuer.value(plan)
        values = (*valued.costs, valued.proxy)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._constrain(trial, valued)
            told = self.study.tell(trial, values, skip_if_finished=True)
            if told.state == TrialState.COMPLETE:
                self.claims.valued.add(plan.hash)
                self.valued += 1
                return True
        return False

    def _constrain(self, trial: optuna.Trial, valued: Valued) -> None:
        """Violations are normalised, since Optuna sums them."""
        limits = self.valuer.problem.limits
        if limits.bytes < math.inf:
            trial.set_constraint("bytes over budget", valued.bytes / limits.bytes - 1.0)
        if limits.quality:
            trial.set_constraint("quality below floor", limits.quality - valued.worst)

    def _wait(self) -> None:
        """Until another process's claim ends, or a little: by chance, so that two that gave way
        to each other part."""
        held = set(self.claims.running)
        while True:
            time.sleep(random.uniform(0, WAIT))
            self.claims.fail_the_dead()
            self.claims.refresh()
            if self.sampler.outlook == "fresh" or held != set(self.claims.running):
                return


def _open(storage: BaseStorage, name: str, problem: Problem) -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[StudyDirection.MINIMIZE] * len(problem.costs) + [StudyDirection.MAXIMIZE],
        load_if_exists=True,
    )


def _explored(study: optuna.Study, valuer: PlanEvaluator, exhausted: bool) -> Explored:
    encoding = valuer.problem.encoding
    valued = [
        valuer.valued(encoding.decode(trial.params), tuple(trial.values[:-1]))
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]
    feasible = [v for v in valued if valuer.feasible(v)]
    best = [feasible[i] for i in nondominated([v.objectives for v in feasible])]
    return Explored(
        front=tuple(sorted(best, key=lambda v: (v.bytes, -v.proxy))),
        valued=tuple(valued),
        feasible=tuple(feasible),
        progress=tuple(_progress(valued, valuer)),
        limits=valuer.problem.limits,
        exhausted=exhausted,
    )


def _progress(valued: Sequence[Valued], valuer: PlanEvaluator) -> Iterator[float]:
    """See `Explored.progress`."""
    whole = min(valuer.problem.limits.bytes, valuer.costs.unmerged_bytes)
    best: list[tuple[float, float]] = []
    area = 0.0
    for one in valued:
        if valuer.feasible(one):
            points = [*best, (one.bytes / whole, one.proxy)]
            kept = [points[i] for i in front(points)]
            area = hypervolume(kept, (1.0, 0.0)) if kept != best else area
            best = kept
        yield area
