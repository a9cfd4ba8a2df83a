"""Measure how often a watch promotes a worse plan, and how optimistic a search is.

    python bench/promotion.py

The quickstart's networks are searched on 288 frames by day and a window of 64 from a camera with
night and rain, as in `bench/search_again.py`. The plans of the front with the best similarity run
on 512 new frames of that camera; their fidelity on all of them counts as the true value. Then
decisions are made again and again on a few frames drawn from these, for every pair of plans as
challenger and champion: by the challenger's own interval, as for plans that were not measured
together, and by the interval of their difference. The last line is one JSON object:

- refused: by the number of frames and by how much worse the challenger really is (in points;
  "better" if it is not worse), the fraction of decisions of both kinds that refuse it
- flattery: by the number of frames, the mean difference between the fidelity of the best plan of a
  search, on a quarter of the frames that it was chosen by, and its true fidelity
- width: by the number of frames, the median width of both intervals
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from search_again import FRAMES, WINDOW, changed_camera, load_arm_config, run_arm, write_frames

from search.data.frames import RenderedScenes
from search.data.synthetic.scenes import SceneSettings
from search.evaluation.bootstrap import percentile_interval
from search.evaluation.bundles import BundleFidelity
from search.evaluation.evaluate import EvaluationSetup, score_frames
from search.evaluation.per_frame import FrameScores, main_score_name, nan_mean
from search.statistics.observed import Observed
from search.utils.console import ConsoleReporter
from search.utils.progress import silent
from search.utils.reporter import Reporter
from spaces.plan import SharePlan

SEED, PLANS, NEW_FRAMES = 0, 10, 512
SIZES = (16, 32, 64)
"""Numbers of frames of a decision."""
DECISIONS, DRAWS, CHOICES = 100, 200, 2000
"""Decisions of each size, bootstrap draws in each, and choices of a best plan."""
CHUNK = 50
GAPS = {"0 to 2": (0.0, 0.02), "2 to 5": (0.02, 0.05), "5 to 10": (0.05, 0.1), "10 on": (0.1, 1.0)}

Matrix = NDArray[np.float64]


def main() -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        plans = score_front(Path(folder), ConsoleReporter())
    rng = np.random.default_rng(SEED)
    decisions_by_size = {size: Decisions.draw(plans, size, rng) for size in SIZES}
    report: dict[str, Any] = {
        "fidelity": [round(float(value), 4) for value in plans.true_fidelity],
        "refused": {
            size: refusals(decisions, plans.true_fidelity)
            for size, decisions in decisions_by_size.items()
        },
        "width": {size: decisions.widths for size, decisions in decisions_by_size.items()},
        "flattery": {size: optimism(plans, size, rng) for size in SIZES},
        "frames": NEW_FRAMES,
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(report))


@dataclass(frozen=True)
class PlanScores:
    """The scores of each plan on every new frame, against the outputs of the unmerged models."""

    frame_scores: Sequence[Mapping[str, FrameScores]]

    @cached_property
    def true_fidelity(self) -> Matrix:
        """(plans,): fidelity on all frames."""
        return self.fidelity(np.ones((1, NEW_FRAMES)))[:, 0]

    def fidelity(self, counts: Matrix) -> Matrix:
        """Return (plans, draws): the mean over the models for each of (draws, frames) counts."""
        parts = [self._fidelity(counts[k : k + CHUNK]) for k in range(0, len(counts), CHUNK)]
        return np.concatenate(parts, 1)

    def _fidelity(self, counts: Matrix) -> Matrix:
        distinct = {
            id(scores): scores for by_model in self.frame_scores for scores in by_model.values()
        }
        drawn_scores = {
            key: scores.resample(counts)[main_score_name(scores.scores)]
            for key, scores in distinct.items()
        }
        return np.array(
            [
                nan_mean(np.array([drawn_scores[id(scores)] for scores in by_model.values()]))
                for by_model in self.frame_scores
            ]
        )


def score_front(folder: Path, reporter: Reporter) -> PlanScores:
    """Search, and score the best plans of the front on new frames."""
    frames = {
        "day": RenderedScenes(SceneSettings(seed=300 + SEED), FRAMES),
        "later": RenderedScenes(changed_camera(400 + SEED), WINDOW),
    }
    for name, rendered in frames.items():
        write_frames(rendered, folder / name)
    parts = [{"folder": str(folder / name)} for name in frames]
    arm = run_arm(load_arm_config(SEED, folder / "search", {"parts": parts}), (), reporter)
    best = sorted(arm.explored.front, key=lambda evaluated: evaluated.proxy)[-PLANS:]
    return score_plans(arm.observed, [evaluated.plan for evaluated in best], reporter)


def score_plans(observed: Observed, plans: Sequence[SharePlan], reporter: Reporter) -> PlanScores:
    """Score plans on new frames of the changed camera."""
    deployment = observed.deployment
    setup = EvaluationSetup(
        deployment.deployed_models, deployment.facts, observed.maps_for(plans), batch=16
    )
    frames = RenderedScenes(changed_camera(600 + SEED), NEW_FRAMES)
    with reporter.progress("frames", NEW_FRAMES) as progress:
        truth = BundleFidelity.prepare(setup, frames, progress).truth
    return PlanScores(score_frames(setup, plans, truth, silent))


@dataclass(frozen=True)
class Decisions:
    """For every pair of plans, whether each of many decisions refuses the challenger."""

    own: NDArray[np.bool_]
    """(decisions, challengers, champions): by the challenger's own interval."""
    together: NDArray[np.bool_]
    """The same by the interval of the difference."""
    widths: Mapping[str, float]

    @classmethod
    def draw(cls, plans: PlanScores, size: int, rng: np.random.Generator) -> Decisions:
        own, together, widths = [], [], dict[str, list[float]](own=[], together=[])
        for _ in range(DECISIONS):
            frames = rng.choice(NEW_FRAMES, size, replace=False)
            counts = np.zeros((1 + DRAWS, NEW_FRAMES))
            counts[0, frames] = 1
            for row in counts[1:]:
                np.add.at(row, rng.choice(frames, size), 1)
            fidelity = plans.fidelity(counts)
            values, draws = fidelity[:, 0], fidelity[:, 1:]
            own_intervals = np.array(
                [percentile_interval(*plan) for plan in zip(values, draws, strict=True)]
            )
            difference_intervals = np.array(
                [
                    [
                        percentile_interval(values[a] - values[b], draws[a] - draws[b])
                        for b in range(len(values))
                    ]
                    for a in range(len(values))
                ]
            )
            own.append(own_intervals[:, None, 1] < values[None, :])
            together.append(difference_intervals[..., 1] < 0)
            widths["own"] += list(np.diff(own_intervals)[:, 0])
            widths["together"] += list(
                np.diff(difference_intervals)[~np.eye(len(values), dtype=bool), 0]
            )
        return cls(
            np.array(own),
            np.array(together),
            {kind: round(median(values), 4) for kind, values in widths.items()},
        )


def refusals(decisions: Decisions, true_fidelity: Matrix) -> dict[str, dict[str, Any]]:
    """Return, by how much worse the challenger is, the fraction of decisions that refuse it."""
    gaps = true_fidelity[None, :] - true_fidelity[:, None]  # challenger, champion
    others = ~np.eye(len(true_fidelity), dtype=bool)
    pairs_by_gap = {"better": (gaps <= 0) & others}
    pairs_by_gap |= {name: (gaps > low) & (gaps <= high) for name, (low, high) in GAPS.items()}
    return {
        name: {
            "own": round(float(decisions.own[:, pairs].mean()), 4),
            "together": round(float(decisions.together[:, pairs].mean()), 4),
            "pairs": int(pairs.sum()),
        }
        for name, pairs in pairs_by_gap.items()
        if pairs.any()
    }


def optimism(plans: PlanScores, size: int, rng: np.random.Generator) -> float:
    """Return by how much the fidelity of a chosen plan exceeds its true fidelity, on average.

    The plan is the best of those on 4 * `size` frames; its fidelity is measured on `size` of them.
    """
    choosing, measuring = np.zeros((2, CHOICES, NEW_FRAMES))
    for chosen_by, measured_on in zip(choosing, measuring, strict=True):
        frames = rng.choice(NEW_FRAMES, 4 * size, replace=False)
        chosen_by[frames], measured_on[frames[:size]] = 1, 1
    best = plans.fidelity(choosing).argmax(0)
    measured_fidelity = plans.fidelity(measuring)[best, np.arange(CHOICES)]
    return round(float(np.nanmean(measured_fidelity - plans.true_fidelity[best])), 4)


if __name__ == "__main__":
    main()
