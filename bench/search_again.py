"""Compare a search that reuses an earlier search's results with a search from scratch.

    python bench/search_again.py

A search with the quickstart's networks on 288 frames by day comes first. Then the camera changes
(night and rain), a window of 64 new frames arrives, and the search runs again on both parts:
*warm*, with the cache and the front of the first search, and *cold*, without them. All frames are
image files. The two arms take turns at running first, and each loads its models again; loading is
not counted.

The fronts of the arms are compared by similarities that belong to neither: those of all shares on
new frames of the changed camera, with the maps of all statistics. The cost of an arm is the time
for statistics, similarities and trials until its front dominates as much as the cold front in the
end. A third arm searches all frames as one set, to measure whether parts cost any of the front.
The last line is one JSON object:

- warm_over_cold: the cost of the warm arm over that of the cold one in wall-clock time: the median
  of the seeds, and each seed
- warm_over_cold_cpu: the same in processor time, which depends little on other work
- hypervolume_ratio: that of the warm front over the cold one in the end; over_one_set: over the
  third arm; the minimum of the seeds, and each seed
- same_similarities: whether warm and cold similarities are equal to the last bit
- trials: how many trials an arm needed for that front
- cpu_seconds: the median of each step of an arm, including models
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from samplers import ROOT

from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.frames import RenderedScenes, Subset
from search.data.synthetic.scenes import SceneSettings
from search.metrics.fidelity import fidelity_alone
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import (
    build_problem,
    compute_similarities,
    observe,
    open_frames,
)
from search.statistics.observed import Observed
from search.study.objectives import PlanEvaluator
from search.study.optimize import StudyResult, StudySettings, run_study
from search.study.pareto import front_indices, hypervolume
from search.study.problem import Problem
from search.study.smallest_plan import smallest_plan
from search.study.warm_start import starting_plans
from search.utils.console import ConsoleReporter
from search.utils.files import make_folder
from search.utils.reporter import Reporter
from spaces.plan import Share, SharePlan

SEEDS = range(5)
RATIOS = ("warm_over_cold", "warm_over_cold_cpu")
FRAMES, WINDOW, NEUTRAL_FRAMES = 288, 64, 32
ONE_SET_HELD_OUT = 64
"""Held-out frames of the single set: as many as of both parts together."""
Similarity = Mapping[Share, float]
Seconds = NDArray[np.float64]
"""Wall-clock time and processor time."""


@dataclass(frozen=True)
class Arm:
    """One search: its results and its times."""

    observed: Observed
    similarity: Similarity
    evaluator: PlanEvaluator
    explored: StudyResult
    seconds: Mapping[str, Seconds]
    """By step: models, statistics, similarity and search."""
    trials_at: Sequence[Seconds]
    """Time from the start of the search to the end of each trial."""

    @property
    def front(self) -> list[SharePlan]:
        """The plans that the next search starts from."""
        return [evaluated.plan for evaluated in self.explored.front]

    def cost(self, trials: int) -> Seconds:
        """Return the time from loaded models until so many trials were done."""
        before = self.seconds["statistics"] + self.seconds["similarity"]
        return before + self.trials_at[trials - 1]


def main() -> None:
    reporter = ConsoleReporter()
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            seeds.append(compare_arms(seed, Path(folder) / str(seed), reporter))
            print(json.dumps(seeds[-1]), flush=True)
    ratios, cpu_ratios = ([seed[key] for seed in seeds] for key in RATIOS)
    over_cold = [seed["hypervolume_ratio"] for seed in seeds]
    over_one_set = [seed["over_one_set"] for seed in seeds]
    report: dict[str, Any] = {
        "warm_over_cold": median(ratios),
        "warm_over_cold_of_each": ratios,
        "warm_over_cold_cpu": median(cpu_ratios),
        "warm_over_cold_cpu_of_each": cpu_ratios,
        "hypervolume_ratio": min(over_cold),
        "hypervolume_ratio_of_each": over_cold,
        "over_one_set": min(over_one_set),
        "over_one_set_of_each": over_one_set,
        "same_similarities": all(seed["same_similarities"] for seed in seeds),
        "cpu_seconds": {
            arm: {
                part: round(median(seed["cpu_seconds"][arm][part] for seed in seeds), 2)
                for part in seeds[0]["cpu_seconds"][arm]
            }
            for arm in seeds[0]["cpu_seconds"]
        },
        "trials": {arm: [seed["trials"][arm] for seed in seeds] for arm in seeds[0]["trials"]},
        "frames": [FRAMES, WINDOW],
        "threads": torch.get_num_threads(),
    }
    rows = [[name, str(value)] for name, value in report.items()]
    reporter.table("Searching again, warm against cold", ["what", "value"], rows)
    print(json.dumps(report))


def compare_arms(seed: int, folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Run the first search of one camera and the arms that follow, and compare the arms."""
    day, changed = SceneSettings(seed=300 + seed), changed_camera(400 + seed)
    write_frames(RenderedScenes(day, FRAMES), folder / "frames" / "day")
    write_frames(RenderedScenes(changed, WINDOW), folder / "frames" / "later")
    parts = [{"folder": str(folder / "frames" / name)} for name in ("day", "later")]
    first = run_arm(load_arm_config(seed, folder / "first", parts[0]), (), reporter)

    def warm() -> Arm:
        config = load_arm_config(seed, folder / "first", {"parts": parts})
        return run_arm(config, first.front, reporter)

    def cold() -> Arm:
        return run_arm(load_arm_config(seed, folder / "cold", {"parts": parts}), (), reporter)

    arms = run_in_turn({"cold": cold, "warm": warm}, seed)
    one_set = load_arm_config(
        seed,
        folder / "one",
        {"folder": str(folder / "frames")},
        f"verify.fidelity_frames={ONE_SET_HELD_OUT}",
    )
    arms["one set"] = run_arm(one_set, (), reporter)
    return summarise(
        arms,
        neutral_similarity(
            arms["cold"], RenderedScenes(changed_camera(500 + seed), NEUTRAL_FRAMES)
        ),
    )


def run_arm(config: RunConfig, earlier_front: Sequence[SharePlan], reporter: Reporter) -> Arm:
    """Do what `merge-search run` does, up to the front; evaluate the earlier front first."""
    make_folder(config.out_folder)
    marks = [now()]
    deployment = load_deployment(config, reporter)
    marks.append(now())
    observed = observe(config, deployment, open_frames(config, reporter), reporter)
    marks.append(now())
    similarity = compute_similarities(config, observed, config.search.adapter_specs, reporter)
    marks.append(now())
    ends: list[Seconds] = []
    problem = build_problem(config, deployment, similarity, {})
    evaluator = PlanEvaluator(problem)
    starts = starting_plans(problem, (*earlier_front, smallest_plan(problem, evaluator).plan))
    settings = StudySettings(
        config.name, config.store, config.search.sampler, config.search.trials, config.seed
    )
    explored = run_study(
        evaluator, settings, starts, lambda count: ends.extend([now() - marks[3]] * count)
    )
    marks.append(now())
    durations = (after - before for before, after in pairwise(marks))
    seconds = dict(zip(("models", "statistics", "similarity", "search"), durations, strict=True))
    return Arm(observed, similarity, evaluator, explored, seconds, ends)


def now() -> Seconds:
    """Return the current wall-clock time and processor time."""
    return np.array([time.perf_counter(), time.process_time()])


def neutral_similarity(arm: Arm, frames: RenderedScenes) -> Similarity:
    """Return the fidelity of every share on new frames, with the maps of all statistics."""
    held_out = Subset(frames, tuple(range(len(frames))))
    observed = Observed(arm.observed.deployment, arm.observed.statistics, frames, held_out)
    return fidelity_alone(observed, list(arm.similarity))


def summarise(arms: Mapping[str, Arm], yardstick: Similarity) -> dict[str, Any]:
    """Return the costs and fronts of the arms of one seed."""
    curves = {name: hypervolume_curve(arm, yardstick) for name, arm in arms.items()}
    target = curves["cold"][-1]
    trials = {name: trials_until(curves[name], target) for name in arms}
    costs = {name: arm.cost(trials[name]) for name, arm in arms.items()}
    ratios = costs["warm"] / costs["cold"]
    return {
        **{name: round(float(ratio), 3) for name, ratio in zip(RATIOS, ratios, strict=True)},
        "hypervolume_ratio": round(curves["warm"][-1] / target, 5),
        "over_one_set": round(curves["warm"][-1] / curves["one set"][-1], 5),
        "same_similarities": arms["warm"].similarity == arms["cold"].similarity,
        "trials": trials,
        "cpu_seconds": {
            name: {
                part: round(float(cpu), 2)
                for part, (_, cpu) in {**arm.seconds, "until there": costs[name]}.items()
            }
            for name, arm in arms.items()
        },
    }


def hypervolume_curve(arm: Arm, yardstick: Similarity) -> list[float]:
    """Return the hypervolume of the arm's front after each trial, by the similarities `yardstick`.

    It is a fraction of the rectangle from (0 bytes, quality 1) to (budget, quality 0).
    """
    problem = arm.evaluator.problem
    neutral = PlanEvaluator(Problem(problem.facts, yardstick, problem.limits))
    budget = problem.limits.bytes
    front: list[tuple[float, float, SharePlan]] = []
    curve, area = [], 0.0
    for evaluated in arm.explored.evaluated:
        if arm.evaluator.is_feasible(evaluated):
            entry = (evaluated.bytes / budget, evaluated.proxy, evaluated.plan)
            entries = [*front, entry]
            indices = front_indices([(size, proxy) for size, proxy, _ in entries])
            extended = [entries[k] for k in indices]
            if extended != front:
                front = extended
                points = [(size, neutral.predict(plan).proxy) for size, _, plan in front]
                area = hypervolume([points[k] for k in front_indices(points)], (1.0, 0.0))
        curve.append(area)
    return curve


def trials_until(curve: Sequence[float], target: float) -> int:
    """Return the trials until the curve reaches the target; all if it never does."""
    trials = (k for k, area in enumerate(curve, 1) if area >= target * (1 - 1e-9))
    return next(trials, len(curve))


def run_in_turn(arms: Mapping[str, Callable[[], Arm]], seed: int) -> dict[str, Arm]:
    """Run each arm; the order alternates from seed to seed."""
    order = list(arms) if seed % 2 == 0 else list(arms)[::-1]
    return {name: arms[name]() for name in order}


def load_arm_config(seed: int, folder: Path, frames: Mapping[str, Any], *more: str) -> RunConfig:
    """Return the quickstart's config on these frames, with its own cache and output folder."""
    return load_config(
        ROOT / "runs" / "quickstart.yaml",
        [
            f"seed={seed}",
            f"frames={json.dumps(frames)}",
            "truth={}",
            "budget=65%",
            "search.precision=[]",
            f"cache={folder / 'cache'}",
            f"out={folder / 'out'}",
            *more,
        ],
    )


def write_frames(frames: RenderedScenes, folder: Path) -> None:
    """Write the frames as image files, in order."""
    folder.mkdir(parents=True)
    for index in range(len(frames)):
        Image.fromarray(frames[index]).save(folder / f"{index:05}.jpg", quality=95)


def changed_camera(seed: int) -> SceneSettings:
    """Return the camera after the change: night and rain."""
    return SceneSettings(seed=seed, night=0.3, rain=0.25)


if __name__ == "__main__":
    main()
