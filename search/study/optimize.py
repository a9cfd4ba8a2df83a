"""A study: plans evaluated by the trials of Optuna, in any number of processes.

No trial is spent on a plan that was evaluated before. Any process may be killed at any time: all
evaluated plans are kept, and the same call continues the study. Within this project only the
modules of this package import Optuna.
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
from search.study.objectives import EvaluatedPlan, PlanEvaluator
from search.study.pareto import front_indices, hypervolume, nondominated_indices
from search.study.problem import Limits, Problem, SamplerName
from search.study.samplers import UniquePlanSampler, make_sampler
from search.study.storage import (
    answering_from_memory,
    open_existing_store,
    open_store,
    translated_errors,
)
from search.utils.progress import Progress, silent
from spaces.errors import MergeSearchError
from spaces.plan import SharePlan

LAYERS = 3
"""Layers of non-dominated plans from which a shortlist is taken."""
PROBLEM, SETTINGS, STARTS = "problem", "settings", "starts"
"""Attributes of a study, from which another process can join it."""
POLL_SECONDS = 0.2
"""The longest time between two polls of the plans that other processes are evaluating."""
ProgressDisplay = Callable[[int], AbstractContextManager[Progress]]
"""Takes the number of trials in total, and shows progress while its context is open."""


def hidden_progress(trials: int) -> AbstractContextManager[Progress]:
    """Show no progress."""
    return contextlib.nullcontext(silent)


class NoSuchStudy(MergeSearchError):
    """The store holds no study of that name."""


@dataclass(frozen=True)
class StudySettings:
    """How the space is explored, and where the trials are stored."""

    name: str
    store: str
    """A file's path, or a postgresql:// URL."""
    sampler: SamplerName
    trials: int
    """Plans to evaluate, of all processes together."""
    seed: int

    def study_name(self, problem: Problem) -> str:
        """Return the study's name: the same only for the same problem, sampler and seed."""
        return f"{self.name}-{problem.hash}-{self.sampler}-{self.seed}"


@dataclass(frozen=True)
class StudyResult:
    """The plans that a study has evaluated."""

    front: tuple[EvaluatedPlan, ...]
    """Feasible and non-dominated in all objectives, by rising bytes."""
    evaluated: tuple[EvaluatedPlan, ...]
    """All plans, one for each trial, in the order of the trials."""
    feasible: tuple[EvaluatedPlan, ...]
    """The plans within the limits."""
    hypervolumes: tuple[float, ...]
    """After each trial, the share of the rectangle from (0 bytes, quality 1) to (budget, or the
    unmerged bytes, quality 0) that the feasible plans dominate; 0 to 1."""
    limits: Limits
    exhausted: bool
    """Whether all plans of the space have been evaluated."""

    @property
    def trials(self) -> int:
        """Number of plans evaluated; each took one trial."""
        return len(self.evaluated)

    def shortlist(self, most: int) -> list[EvaluatedPlan]:
        """Return at most `most` plans to verify.

        They are taken from the outermost layers: the front, the front of the remaining plans, and
        so on. Of these the plans of the highest proxy are returned, or those of the fewest bytes
        if the limits ask for these. A plan close behind the front may be better than its proxy
        says, and a cheap but poor plan does not help if the budget is met already.
        """
        remaining, layers = list(self.feasible), list[EvaluatedPlan]()
        for _ in range(LAYERS):
            indices = nondominated_indices([plan.objectives for plan in remaining])
            layer = [remaining[i] for i in indices]
            layers += layer
            remaining = [plan for plan in remaining if plan not in layer]
        if self.limits.prefer_fewest_bytes:
            return sorted(layers, key=lambda plan: (plan.bytes, -plan.proxy))[:most]
        return sorted(layers, key=lambda plan: (-plan.proxy, plan.bytes))[:most]


def run_study(
    evaluator: PlanEvaluator,
    settings: StudySettings,
    starts: Sequence[SharePlan] = (),
    progress: Progress = silent,
) -> StudyResult:
    """Evaluate plans until the study has its number of trials, or the space is exhausted.

    `starts` are evaluated first, in their order. An interrupted study is continued.

    Raises:
        StoreFailed: the store cannot be reached, or takes no more trials; its trials are kept.
        DamagedStudy: the file is no journal of trials.
    """
    problem = evaluator.problem
    with translated_errors(settings.store):
        storage = open_store(settings.store)
        study = _create_or_load(storage, settings.study_name(problem), problem)
        if SETTINGS not in study.user_attrs:
            study.set_user_attr(PROBLEM, problem.to_dict())
            study.set_user_attr(STARTS, [plan.to_dict() for plan in starts])
        study.set_user_attr(SETTINGS, asdict(replace(settings, store="")))
        exhausted = _Worker(storage, study, evaluator, settings, starts).work(progress)
        return _study_result(study, evaluator, exhausted)


def join_study(store: str, name: str, display: ProgressDisplay = hidden_progress) -> int:
    """Help with a running study from another process; return the number of plans evaluated here.

    Raises:
        NoSuchStudy: the store holds no study of that name, or none that `run_study` created.
        LatencyUnavailable: the study minimises measured latency.
        StoreFailed, DamagedStudy: as `run_study`.
    """
    with translated_errors(store):
        storage = open_existing_store(store)
        study = _load(storage, name)
        evaluator, settings, starts = _read_attributes(study)
        evaluator.evaluate(SharePlan())  # fails before any trial if latency is needed
        worker = _Worker(storage, study, evaluator, settings, starts)
        with display(settings.trials) as progress:
            worker.work(progress)
        return worker.evaluated


def _create_or_load(storage: BaseStorage, name: str, problem: Problem) -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[StudyDirection.MINIMIZE] * len(problem.costs) + [StudyDirection.MAXIMIZE],
        load_if_exists=True,
    )


def _load(storage: BaseStorage, name: str) -> optuna.Study:
    names = [study.study_name for study in storage.get_all_studies()]
    if name not in names:
        raise NoSuchStudy(
            f"study {name!r}: not in this store, which holds {', '.join(names) or 'none'}"
        )
    return optuna.load_study(study_name=name, storage=storage)


def _read_attributes(
    study: optuna.Study,
) -> tuple[PlanEvaluator, StudySettings, list[SharePlan]]:
    """Read the problem, settings and starting plans that `run_study` has stored."""
    attributes = study.user_attrs
    if not {PROBLEM, STARTS, SETTINGS} <= attributes.keys():
        raise NoSuchStudy(
            f"study {study.study_name!r}: merge-search did not create it, or is just creating it"
        )
    try:
        settings = StudySettings(**{**attributes[SETTINGS], "seed": random.randrange(2**32)})
        starts = [SharePlan.from_dict(plan) for plan in attributes[STARTS]]
        # In an order of its own, so that no two processes walk through them side by side.
        random.Random(settings.seed).shuffle(starts)
        return PlanEvaluator(Problem.from_dict(attributes[PROBLEM])), settings, starts
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoSuchStudy(
            f"study {study.study_name!r}: another version of merge-search created it ({error!r})"
        ) from error


class _Worker:
    """One process that works on a study."""

    def __init__(
        self,
        storage: BaseStorage,
        study: optuna.Study,
        evaluator: PlanEvaluator,
        settings: StudySettings,
        starts: Sequence[SharePlan],
    ) -> None:
        problem = evaluator.problem
        self.storage = storage
        self.study = study
        self.evaluator = evaluator
        self.space = problem.space
        self.claims = Claims(storage, storage.get_study_id_from_name(study.study_name))
        self.trials = settings.trials
        self.evaluated = 0
        """Plans that this process has evaluated."""
        proposer = make_sampler(settings.sampler, problem, settings.seed)
        self.sampler = UniquePlanSampler(proposer, self.space, self.claims, starts, settings.seed)
        study.sampler = self.sampler

    def work(self, progress: Progress) -> bool:
        """Evaluate plans until the study is complete; return whether the space is exhausted.

        At the end it waits for the plans that other processes are evaluating. If such a process
        dies, its plans are evaluated here.
        """
        self.claims.refresh()
        reported = 0
        with self.claims.heartbeat():
            while True:
                progress(len(self.claims.evaluated) - reported)
                reported = len(self.claims.evaluated)
                if reported >= self.trials:
                    return False
                if reported and not self.space.choices:  # Optuna does not ask for zero parameters
                    return True
                if len(self.claims) >= self.trials or not self._run_trial():
                    if self.sampler.status == "exhausted":
                        return True
                    self._wait()

    def _run_trial(self) -> bool:
        """Evaluate one plan; return False if another process has claimed it, or none is free."""
        with answering_from_memory(self.storage):
            trial = self.study.ask(self.sampler.distributions)
        try:
            plan = self.space.decode(trial.params)
            claimed = self.sampler.status == "fresh" and self.claims.claim(trial, plan.hash)
            # Two processes may claim the last plan of the study, each another one.
            if claimed and len(self.claims) <= self.trials:
                return self._evaluate(trial, plan)
            self.study.tell(trial, state=TrialState.FAIL)
            return False
        except BaseException:
            with contextlib.suppress(Exception):
                self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise

    def _evaluate(self, trial: optuna.Trial, plan: SharePlan) -> bool:
        """Evaluate a claimed plan; return False if others have taken this process for dead."""
        evaluated = self.evaluator.evaluate(plan)
        values = (*evaluated.costs, evaluated.proxy)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._set_constraints(trial, evaluated)
            finished = self.study.tell(trial, values, skip_if_finished=True)
            if finished.state == TrialState.COMPLETE:
                self.claims.evaluated.add(plan.hash)
                self.evaluated += 1
                return True
        return False

    def _set_constraints(self, trial: optuna.Trial, plan: EvaluatedPlan) -> None:
        """Set the violations of the limits, normalised because Optuna adds them up."""
        limits = self.evaluator.problem.limits
        if limits.bytes < math.inf:
            trial.set_constraint("bytes over budget", plan.bytes / limits.bytes - 1.0)
        if limits.quality:
            trial.set_constraint("quality below floor", limits.quality - plan.worst)

    def _wait(self) -> None:
        """Wait until a plan is free, or another process's claim has ended.

        The time between polls is random, so that two processes that gave way to each other do not
        collide again.
        """
        running = set(self.claims.running)
        while True:
            time.sleep(random.uniform(0, POLL_SECONDS))
            self.claims.fail_dead_trials()
            self.claims.refresh()
            if self.sampler.status == "fresh" or running != set(self.claims.running):
                return


def _study_result(study: optuna.Study, evaluator: PlanEvaluator, exhausted: bool) -> StudyResult:
    space = evaluator.problem.space
    evaluated = [
        evaluator.with_costs(space.decode(trial.params), tuple(trial.values[:-1]))
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]
    feasible = [plan for plan in evaluated if evaluator.is_feasible(plan)]
    front = [feasible[i] for i in nondominated_indices([plan.objectives for plan in feasible])]
    return StudyResult(
        front=tuple(sorted(front, key=lambda plan: (plan.bytes, -plan.proxy))),
        evaluated=tuple(evaluated),
        feasible=tuple(feasible),
        hypervolumes=tuple(_hypervolumes(evaluated, evaluator)),
        limits=evaluator.problem.limits,
        exhausted=exhausted,
    )


def _hypervolumes(plans: Sequence[EvaluatedPlan], evaluator: PlanEvaluator) -> Iterator[float]:
    """Yield the values of `StudyResult.hypervolumes`."""
    largest = min(evaluator.problem.limits.bytes, evaluator.costs.unmerged_bytes)
    front: list[tuple[float, float]] = []
    volume = 0.0
    for plan in plans:
        if evaluator.is_feasible(plan):
            points = [*front, (plan.bytes / largest, plan.proxy)]
            extended = [points[i] for i in front_indices(points)]
            volume = hypervolume(extended, (1.0, 0.0)) if extended != front else volume
            front = extended
        yield volume
