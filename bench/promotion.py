"""How often a verdict of the watch lets a worse plan through, and how much a search flatters.

    python bench/promotion.py

The quickstart's networks; a search on 288 frames of a day and a window of 64 from a camera with
night and rain, as `bench/search_again.py` has it. The plans of its front with the best similarity
answer 512 fresh frames of that camera; their fidelity on all of them counts as the truth. Then the
verdict is made again and again on few frames drawn from these, for every two plans as challenger
and champion: by the challenger's own interval, as it is for plans that were not measured together,
and by that of their difference. The last line is one JSON object:

- refused: by frames and by how much worse the challenger is in truth (in points; "better": it is
  not), the share of verdicts that refuse it, of both kinds
- flattery: by frames, how much higher the fidelity of a search's best plan is on frames it was
  chosen by, a quarter of those, than in truth
- width: by frames, the median width of the two intervals
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
from search_again import FRAMES, WINDOW, changed_camera, configured, searched, written

from search.data.frames import RenderedScenes
from search.data.synthetic.scenes import SceneSettings
from search.evaluation.bootstrap import interval
from search.evaluation.bundles import ByAnswers
from search.evaluation.evaluate import EvaluationSetup, tallies
from search.evaluation.per_frame import FrameScores, main_name, means_known
from search.statistics.observed import Observed
from search.utils.console import ConsoleReporter
from search.utils.progress import silent
from search.utils.reporter import Reporter
from spaces.plan import SharePlan

SEED, PLANS, FRESH = 0, 10, 512
SIZES = (16, 32, 64)
"""Frames of a verdict."""
VERDICTS, DRAWS, CHOICES = 100, 200, 2000
"""Verdicts of each size, draws of the bootstrap in each, and choices of a best plan."""
AT_ONCE = 50
GAPS = {"0 to 2": (0.0, 0.02), "2 to 5": (0.02, 0.05), "5 to 10": (0.05, 0.1), "10 on": (0.1, 1.0)}

Matrix = NDArray[np.float64]


def main() -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        plans = answered(Path(folder), ConsoleReporter())
    chance = np.random.default_rng(SEED)
    verdicts = {size: Verdicts.made(plans, size, chance) for size in SIZES}
    report: dict[str, Any] = {
        "fidelity": [round(float(value), 4) for value in plans.in_truth],
        "refused": {size: refused(known, plans.in_truth) for size, known in verdicts.items()},
        "width": {size: known.widths for size, known in verdicts.items()},
        "flattery": {size: flattery(plans, size, chance) for size in SIZES},
        "frames": FRESH,
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(report))


@dataclass(frozen=True)
class Answered:
    """What each plan's models get right on every fresh frame, by the unmerged models' answers."""

    tallies: Sequence[Mapping[str, FrameScores]]

    @cached_property
    def in_truth(self) -> Matrix:
        """(plans,) fidelity on all frames."""
        return self.fidelity(np.ones((1, FRESH)))[:, 0]

    def fidelity(self, counts: Matrix) -> Matrix:
        """(plans, draws): mean over the models in each draw of (draws, frames)."""
        parts = [self._fidelity(counts[k : k + AT_ONCE]) for k in range(0, len(counts), AT_ONCE)]
        return np.concatenate(parts, 1)

    def _fidelity(self, counts: Matrix) -> Matrix:
        distinct = {id(tally): tally for found in self.tallies for tally in found.values()}
        scores = {
            key: tally.resampled(counts)[main_name(tally.scores)]
            for key, tally in distinct.items()
        }
        return np.array(
            [
                means_known(np.array([scores[id(tally)] for tally in found.values()]))
                for found in self.tallies
            ]
        )


def answered(folder: Path, reporter: Reporter) -> Answered:
    """Search, and let plans of the front answer fresh frames."""
    frames = {
        "day": RenderedScenes(SceneSettings(seed=300 + SEED), FRAMES),
        "later": RenderedScenes(changed_camera(400 + SEED), WINDOW),
    }
    for name, rendered in frames.items():
        written(rendered, folder / name)
    parts = [{"folder": str(folder / name)} for name in frames]
    arm = searched(configured(SEED, folder / "search", {"parts": parts}), (), reporter)
    best = sorted(arm.explored.front, key=lambda valued: valued.proxy)[-PLANS:]
    return on_fresh_frames(arm.observed, [valued.plan for valued in best], reporter)


def on_fresh_frames(
    observed: Observed, plans: Sequence[SharePlan], reporter: Reporter
) -> Answered:
    known = observed.deployment
    bench = EvaluationSetup(known.deployed_models, known.facts, observed.maps_for(plans), batch=16)
    fresh = RenderedScenes(changed_camera(600 + SEED), FRESH)
    with reporter.progress("frames", FRESH) as progress:
        right = ByAnswers.on(bench, fresh, progress).right
    return Answered(tallies(bench, plans, right, silent))


@dataclass(frozen=True)
class Verdicts:
    """Of every challenger and champion, whether each of many verdicts refuses the challenger."""

    own: NDArray[np.bool_]
    """(verdicts, plans, plans): by the challenger's own interval."""
    together: NDArray[np.bool_]
    """By that of the difference."""
    widths: Mapping[str, float]

    @classmethod
    def made(cls, plans: Answered, size: int, chance: np.random.Generator) -> Verdicts:
        own, together, widths = [], [], dict[str, list[float]](own=[], together=[])
        for _ in range(VERDICTS):
            taken = chance.choice(FRESH, size, replace=False)
            counts = np.zeros((1 + DRAWS, FRESH))
            counts[0, taken] = 1
            for row in counts[1:]:
                np.add.at(row, chance.choice(taken, size), 1)
            found = plans.fidelity(counts)
            value, drawn = found[:, 0], found[:, 1:]
            alone = np.array([interval(*one) for one in zip(value, drawn, strict=True)])
            apart = np.array(
                [
                    [interval(value[a] - value[b], drawn[a] - drawn[b]) for b in range(len(value))]
                    for a in range(len(value))
                ]
            )
            own.append(alone[:, None, 1] < value[None, :])
            together.append(apart[..., 1] < 0)
            widths["own"] += list(alone[:, 1] - alone[:, 0])
            widths["together"] += list(
                (apart[..., 1] - apart[..., 0])[~np.eye(len(value), dtype=bool)]
            )
        return cls(
            np.array(own),
            np.array(together),
            {kind: round(median(values), 4) for kind, values in widths.items()},
        )


def refused(verdicts: Verdicts, in_truth: Matrix) -> dict[str, dict[str, Any]]:
    """By how much worse the challenger is: the share that is refused, and of how many pairs."""
    gaps = in_truth[None, :] - in_truth[:, None]  # challenger, champion
    others = ~np.eye(len(in_truth), dtype=bool)
    among = {"better": (gaps <= 0) & others}
    among |= {name: (gaps > low) & (gaps <= high) for name, (low, high) in GAPS.items()}
    return {
        name: {
            "own": round(float(verdicts.own[:, pairs].mean()), 4),
            "together": round(float(verdicts.together[:, pairs].mean()), 4),
            "pairs": int(pairs.sum()),
        }
        for name, pairs in among.items()
        if pairs.any()
    }


def flattery(plans: Answered, size: int, chance: np.random.Generator) -> float:
    """Fidelity on `size` of four times as many frames, of the plan that is best on all of those,
    above its fidelity in truth; the mean of many choices."""
    chosen, verdict = np.zeros((2, CHOICES, FRESH))
    for one, few in zip(chosen, verdict, strict=True):
        taken = chance.choice(FRESH, 4 * size, replace=False)
        one[taken], few[taken[:size]] = 1, 1
    best = plans.fidelity(chosen).argmax(0)
    found = plans.fidelity(verdict)[best, np.arange(CHOICES)]
    return round(float(np.nanmean(found - plans.in_truth[best])), 4)


if __name__ == "__main__":
    main()
