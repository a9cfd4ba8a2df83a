"""Measure whether a shortlist is ordered better on every frame than on the frames held out.

    OMP_NUM_THREADS=1 python bench/shortlist.py [--frames 64] [--windows 6]

The quickstart's networks see windows of few frames of a camera at night and in rain. In each
window the maps are fitted on three quarters of the frames, and twenty plans that cover the front
of bytes and R² are the shortlist. Their fidelity is estimated in two ways:

- *held out*: on the quarter of the frames that no map was fitted on, as a run does;
- *every frame*: on all frames, those that maps were fitted on by maps fitted without them
  (`search.evaluation.cross_fitting`).

The true fidelity is that on 192 other frames of the camera. The last line is one JSON object with,
for either way: the mean error in points, the rank correlation with the true fidelity (both means
over the windows), by how many points the true fidelity of the plan with the best estimate is below
the best of the shortlist, the same for the best of the five best estimates, and processor seconds
of a window.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
from samplers import ROOT
from search_again import changed_camera, load_arm_config

from search.config.run import RunConfig
from search.data.frames import FrameSet, RenderedScenes, Subset, split_frames
from search.evaluation.bundles import BundleFidelity
from search.evaluation.cross_fitting import (
    CrossFitting,
    FittedPart,
    Piece,
    collect_pieces,
    mapped_pairs,
)
from search.evaluation.evaluate import EvaluationSetup, compute_fidelity
from search.evaluation.per_frame import mean_of_available
from search.metrics.fidelity import HOPELESS
from search.metrics.registry import METRICS
from search.pipelines.deployment.load import load_deployment
from search.results.rank_agreement import rank_correlation
from search.statistics.left_out import moments_of_pairs
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.statistics.streaming import Moments, accumulate_moments
from search.study.local_front.pareto_search import local_front
from search.study.objectives import PlanEvaluator
from search.study.problem import Problem
from search.utils.progress import silent
from search.utils.reporter import SILENT
from spaces.deployment import Deployment
from spaces.plan import LINEAR, SharePlan

SHORTLIST, CANDIDATES, OTHERS = 20, 5, 192
BUDGET = 0.8
"""Of the unmerged bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--windows", type=int, default=6)
    options = parser.parse_args()
    folder = ROOT / "out" / "bench-shortlist"
    config = load_arm_config(
        0, folder, {"scenes": {"seed": 1}, "count": options.frames},
        f"verify.fidelity_frames={options.frames // 4}", "statistics.batch=8",
    )  # fmt: skip
    deployment = load_deployment(config, SILENT)
    records = []
    for number in range(options.windows):
        scenes = RenderedScenes(changed_camera(5000 + number), options.frames + OTHERS)
        records.append(Window.of(config, deployment, scenes, options.frames).record())
        print(number, json.dumps(records[-1]), flush=True)
    report = {
        way: {key: round(mean(record[way][key] for record in records), 3) for key in columns}
        for way, columns in records[0].items()
    }
    print(json.dumps({"frames": options.frames, "windows": options.windows, **report}))


@dataclass(frozen=True)
class Window:
    """Few frames of a camera, what a search knows of them, and the frames that come later."""

    config: RunConfig
    observed: Observed
    moments: Moments
    later: FrameSet

    @classmethod
    def of(cls, config: RunConfig, deployment: Deployment, scenes: FrameSet, count: int) -> Window:
        window = Subset(scenes, tuple(range(count)))
        fitted, held_out = split_frames(window, count // 4)
        models, facts, pairs = deployment.fused_models, deployment.facts, deployment.pairs.legal
        moments = accumulate_moments(models, facts, pairs, fitted, config.pass_settings)
        observed = Observed(deployment, Statistics(moments, facts), window, held_out)
        later = Subset(scenes, tuple(range(count, len(scenes))))
        return cls(config, observed, moments, later)

    def record(self) -> dict[str, dict[str, float]]:
        """Compare both ways with the true fidelity."""
        plans = self.shortlist()
        deployment, observed = self.observed.deployment, self.observed
        setup = EvaluationSetup(
            deployment.deployed_models, deployment.facts, observed.maps_for(plans), batch=16
        )
        true = means(compute_fidelity(setup, plans, self.later, silent))
        start = time.process_time()
        held_out = means(compute_fidelity(setup, plans, observed.held_out, silent))
        middle = time.process_time()
        every = [*self.on_every_frame(setup, plans)]
        end = time.process_time()
        return {
            "held out": compare(held_out, true, middle - start),
            "every frame": compare(every, true, end - middle),
        }

    def shortlist(self) -> list[SharePlan]:
        """Return the first plans that cover the front of bytes and R²."""
        deployment = self.observed.deployment
        values = METRICS["r2"].similarities(self.observed, deployment.shares((LINEAR,)))
        kept = {share: value for share, value in values.items() if value > HOPELESS}
        evaluator = PlanEvaluator(Problem(deployment.facts, kept))
        most = BUDGET * evaluator.costs.unmerged_bytes
        front = local_front(evaluator.problem, ())
        return [plan for plan in front if evaluator.predict(plan).bytes <= most][:SHORTLIST]

    def on_every_frame(
        self, setup: EvaluationSetup, plans: Sequence[SharePlan]
    ) -> Iterator[float]:
        """Yield the fidelity of each plan on all frames, each unseen by the maps."""
        window, held_out = self.observed.frames, self.observed.held_out
        fitted = self.observed.statistics_frames
        reference = BundleFidelity.prepare(setup, window)
        for plan in plans:
            own = moments_of_pairs(self.moments, mapped_pairs(plan))
            part = FittedPart(own, len(fitted), fitted.indices)
            fitting = CrossFitting(
                self.observed.deployment, plan, [part], self.config.pass_settings
            )
            pieces = [Piece(held_out.indices, fitting.answers_without([()])), *fitting.pieces()]
            answers = collect_pieces(pieces, setup, window, silent)
            yield reference.measure_collected(answers).mean or 0.0


def means(fidelities: Sequence[Mapping[str, float | None]]) -> list[float]:
    return [mean_of_available(by_model) or 0.0 for by_model in fidelities]


def compare(estimates: Sequence[float], true: Sequence[float], seconds: float) -> dict[str, float]:
    """Return what is lost by the order of the estimates."""
    order = np.argsort([-value for value in estimates], kind="stable")
    best, chosen = max(true), [true[k] for k in order]
    return {
        "error": round(100 * float(np.abs(np.subtract(estimates, true)).mean()), 3),
        "rank": round(rank_correlation(estimates, true) or 0.0, 3),
        "best": round(100 * (best - chosen[0]), 3),
        "best_of_five": round(100 * (best - max(chosen[:CANDIDATES])), 3),
        "cpu_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
