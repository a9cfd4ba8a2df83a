"""Searching again with what the last search has left, against searching again from nothing.

    python bench/search_again.py

The quickstart's networks. A search on 288 frames of a day; then the camera changes (night and
rain), a window of 64 new frames comes, and the search is made again on both: *warm*, with the
cache and the front of the first one; and *cold*, with neither. All frames are image files. The
arms take turns at being first, each loads its models anew, and what that takes is not counted.

Fronts are compared by one yardstick, which is neither arm's own: the similarities of all shares on
fresh frames of the changed camera, with the maps of all statistics. The cost of an arm is the time
until its front, so valued, dominates as much as cold's front does in the end: statistics,
similarities, and the trials up to there. A third arm searches all frames as one set, to see
whether parts cost anything of the front. The last line is one JSON object:

- warm_over_cold: the warm arm's cost over the cold one's, by the clock on the wall, the median of
  the seeds; and each seed's
- warm_over_cold_cpu: the same in seconds of processor time, which others at work on the machine
  hardly change
- hypervolume_ratio: of the warm front over cold's at the end, and over_one_set over the third
  arm's; the least of the seeds, and each
- same_similarities: whether warm and cold have the same, to the last bit
- trials: how many an arm needed until there
- cpu_seconds: the median of each part of an arm; models apart
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
from search.pipelines.prepare import (
    build_problem,
    compute_similarities,
    load_deployment,
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
FRAMES, WINDOW, FRESH = 288, 64, 32
ONE_SET_UNSEEN = 64
"""Of one set so many frames are kept unseen, as many as of both parts together."""
Similarity = Mapping[Share, float]
Seconds = NDArray[np.float64]
"""On the wall, and of the processor."""


@dataclass(frozen=True)
class Arm:
    """A search: what it found, and when."""

    observed: Observed
    similarity: Similarity
    evaluator: PlanEvaluator
    explored: StudyResult
    seconds: Mapping[str, Seconds]
    """Of models, statistics, similarity and search."""
    trials_at: Sequence[Seconds]
    """From the beginning of the search to the end of each trial."""

    @property
    def front(self) -> list[SharePlan]:
        """The plans to try first the next time."""
        return [valued.plan for valued in self.explored.front]

    def cost(self, trials: int) -> Seconds:
        """Until so many trials were done, from loaded models on."""
        before = self.seconds["statistics"] + self.seconds["similarity"]
        return before + self.trials_at[trials - 1]


def main() -> None:
    reporter = ConsoleReporter()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            found.append(one_seed(seed, Path(folder) / str(seed), reporter))
            print(json.dumps(found[-1]), flush=True)
    ratios, of_cpu = ([one[key] for one in found] for key in RATIOS)
    over_cold = [one["hypervolume_ratio"] for one in found]
    over_one_set = [one["over_one_set"] for one in found]
    report: dict[str, Any] = {
        "warm_over_cold": median(ratios),
        "warm_over_cold_of_each": ratios,
        "warm_over_cold_cpu": median(of_cpu),
        "warm_over_cold_cpu_of_each": of_cpu,
        "hypervolume_ratio": min(over_cold),
        "hypervolume_ratio_of_each": over_cold,
        "over_one_set": min(over_one_set),
        "over_one_set_of_each": over_one_set,
        "same_similarities": all(one["same_similarities"] for one in found),
        "cpu_seconds": {
            arm: {
                part: round(median(one["cpu_seconds"][arm][part] for one in found), 2)
                for part in found[0]["cpu_seconds"][arm]
            }
            for arm in found[0]["cpu_seconds"]
        },
        "trials": {arm: [one["trials"][arm] for one in found] for arm in found[0]["trials"]},
        "frames": [FRAMES, WINDOW],
        "threads": torch.get_num_threads(),
    }
    rows = [[name, str(value)] for name, value in report.items()]
    reporter.table("Searching again, warm against cold", ["what", "value"], rows)
    print(json.dumps(report))


def one_seed(seed: int, folder: Path, reporter: Reporter) -> dict[str, Any]:
    """The first search of one camera, the two that follow, and how they compare."""
    day, changed = SceneSettings(seed=300 + seed), changed_camera(400 + seed)
    written(RenderedScenes(day, FRAMES), folder / "frames" / "day")
    written(RenderedScenes(changed, WINDOW), folder / "frames" / "later")
    parts = [{"folder": str(folder / "frames" / name)} for name in ("day", "later")]
    first = searched(configured(seed, folder / "first", parts[0]), (), reporter)

    def warm() -> Arm:
        config = configured(seed, folder / "first", {"parts": parts})
        return searched(config, first.front, reporter)

    def cold() -> Arm:
        return searched(configured(seed, folder / "cold", {"parts": parts}), (), reporter)

    arms = in_turn({"cold": cold, "warm": warm}, seed)
    one_set = configured(
        seed,
        folder / "one",
        {"folder": str(folder / "frames")},
        f"verify.fidelity_frames={ONE_SET_UNSEEN}",
    )
    arms["one set"] = searched(one_set, (), reporter)
    return compared(arms, neutral(arms["cold"], RenderedScenes(changed_camera(500 + seed), FRESH)))


def searched(config: RunConfig, known: Sequence[SharePlan], reporter: Reporter) -> Arm:
    """`merge-search run` up to its front."""
    make_folder(config.out_folder)
    marks = [now()]
    deployment = load_deployment(config, reporter)
    marks.append(now())
    observed = observe(config, deployment, open_frames(config, reporter), reporter)
    marks.append(now())
    similarity = compute_similarities(config, observed, config.search.adapter_specs, reporter)
    marks.append(now())
    ends: list[Seconds] = []
    problem = build_problem(config, deployment, similarity)
    evaluator = PlanEvaluator(problem)
    starts = starting_plans(problem, (*known, smallest_plan(problem, evaluator).plan))
    settings = StudySettings(
        config.name, config.store, config.search.sampler, config.search.trials, config.seed
    )
    explored = run_study(
        evaluator, settings, starts, lambda done: ends.extend([now() - marks[3]] * done)
    )
    marks.append(now())
    taken = (after - before for before, after in pairwise(marks))
    seconds = dict(zip(("models", "statistics", "similarity", "search"), taken, strict=True))
    return Arm(observed, similarity, evaluator, explored, seconds, ends)


def now() -> Seconds:
    return np.array([time.perf_counter(), time.process_time()])


def neutral(arm: Arm, fresh: RenderedScenes) -> Similarity:
    """Every share alone on frames that no arm has seen, with the maps of all statistics."""
    every = Subset(fresh, tuple(range(len(fresh))))
    known = arm.observed
    observed = Observed(known.deployment, known.statistics, fresh, every)
    return fidelity_alone(observed, list(arm.similarity))


def compared(arms: Mapping[str, Arm], yardstick: Similarity) -> dict[str, Any]:
    """Costs and fronts of the arms of one seed."""
    curves = {name: dominated(arm, yardstick) for name, arm in arms.items()}
    target = curves["cold"][-1]
    trials = {name: reached(curves[name], target) for name in arms}
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


def dominated(arm: Arm, yardstick: Similarity) -> list[float]:
    """After each trial: what the arm's front dominates when its plans are valued anew.

    Of the rectangle from (0 bytes, quality 1) to (the budget, quality 0).
    """
    problem = arm.evaluator.problem
    anew = PlanEvaluator(Problem(problem.facts, yardstick, problem.limits))
    whole = problem.limits.bytes
    best: list[tuple[float, float, SharePlan]] = []
    curve, area = [], 0.0
    for valued in arm.explored.evaluated:
        if arm.evaluator.is_feasible(valued):
            known = [*best, (valued.bytes / whole, valued.proxy, valued.plan)]
            kept = [known[k] for k in front_indices([(held, proxy) for held, proxy, _ in known])]
            if kept != best:
                best = kept
                points = [(held, anew.predict(plan).proxy) for held, _, plan in best]
                area = hypervolume([points[k] for k in front_indices(points)], (1.0, 0.0))
        curve.append(area)
    return curve


def reached(curve: Sequence[float], target: float) -> int:
    """Trials until the target; all of them if it is never reached."""
    there = (k for k, area in enumerate(curve, 1) if area >= target * (1 - 1e-9))
    return next(there, len(curve))


def in_turn(arms: Mapping[str, Callable[[], Arm]], seed: int) -> dict[str, Arm]:
    """Each arm's search; who goes first changes from seed to seed."""
    order = list(arms) if seed % 2 == 0 else list(arms)[::-1]
    return {name: arms[name]() for name in order}


def configured(seed: int, folder: Path, frames: Mapping[str, Any], *more: str) -> RunConfig:
    """The quickstart on those frames, with cache and output in a folder of its own."""
    return load_config(
        ROOT / "runs" / "quickstart.yaml",
        [
            f"seed={seed}",
            f"frames={json.dumps(frames)}",
            "truth={}",
            f"cache={folder / 'cache'}",
            f"out={folder / 'out'}",
            *more,
        ],
    )


def written(frames: RenderedScenes, folder: Path) -> None:
    """The frames as files, in their order."""
    folder.mkdir(parents=True)
    for index in range(len(frames)):
        Image.fromarray(frames[index]).save(folder / f"{index:05}.jpg", quality=95)


def changed_camera(seed: int) -> SceneSettings:
    return SceneSettings(seed=seed, night=0.3, rain=0.25)


if __name__ == "__main__":
    main()
