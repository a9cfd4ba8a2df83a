"""Measure how well a watch's verdict tells worse challengers from better ones.

    python bench/verdict.py

The quickstart's networks see many windows of 64 frames of a camera at night and in rain. For each
window the maps of the challengers are fitted on 240 frames by day, an earlier window, and the new
window; the champions' maps know the earlier window only. Challengers and champions are all
combinations of some late shares. Two verdicts decide about every pair in every window:

- *held out*: on the 16 frames of the window that no map was fitted on, by the 95% interval;
- *every frame*: on all 64, of which 48 are measured by maps fitted without them.

The true difference is that on the frames of all other windows, with the maps of another window
for the challengers. Which confidence the verdict needs was chosen with `--choose`, on other
scenes. The last line is one JSON object:

- refused: by how much worse the challenger really is (in points), the number of decisions, and the
  fraction of them in which each verdict refuses it, with its 95% interval over the windows
- cpu_seconds: processor time of both verdicts about one pair of plans, and their ratio
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from samplers import ROOT
from search_again import changed_camera, load_arm_config

from search.data.frames import FrameSet, JoinedFrames, RenderedScenes, Subset, split_parts
from search.data.synthetic.scenes import SceneSettings
from search.evaluation.bootstrap import BOOTSTRAP_DRAWS, bootstrap_draws
from search.evaluation.bundles import BundleFidelity
from search.evaluation.cross_fitting import (
    FRAME_FOLDS,
    CrossFitting,
    FittedPart,
    Piece,
    collect_pieces,
)
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    PlanSetAnswers,
    answers_as_expected,
    collect_answers,
    score_answers,
)
from search.evaluation.per_frame import FrameScores
from search.evaluation.tasks.scoring import AnswerArray
from search.pipelines.deployment.load import load_deployment
from search.pipelines.statistics_cache import sum_moments
from search.statistics.left_out import folds_of, moments_of_pairs, moments_without
from search.statistics.similarity import Statistics
from search.statistics.streaming import Moments, PassSettings, accumulate_moments
from search.utils.console import ConsoleReporter
from search.utils.progress import silent
from search.watch.champion_challenger import VERDICT_LEVEL
from spaces.adapters import LinearMap
from spaces.deployment import Deployment
from spaces.plan import AdapterSpec, Share, SharePlan
from spaces.plan_set import PlanSet
from spaces.shares import Pair

WINDOWS, WINDOW, DAY_FRAMES = 17, 64, 240
CHOOSING_WINDOWS, CHOOSING_SEED = 6, 50
SHARES = {
    "classifier": [
        Share.between("detector:blocks.4", "classifier:blocks.5"),
        Share.between("detector:blocks.4", "classifier:blocks.5", "linear@24"),
        Share.between("detector:blocks.4", "classifier:blocks.5", "linear@12"),
        Share.between("detector:blocks.4", "classifier:blocks.6"),
        Share.between("detector:blocks.4", "classifier:conv_head"),
        Share.between("detector:blocks.3", "classifier:blocks.5"),
        Share.between("detector:blocks.3", "classifier:blocks.6"),
    ],
    "detector": [
        Share.between("classifier:blocks.4", "detector:blocks.5"),
        Share.between("classifier:blocks.4", "detector:blocks.6"),
    ],
}
"""By recipient. None replaces what another takes, so that answers of plans follow from these."""
ALL_SHARES = [share for shares in SHARES.values() for share in shares]
LEVELS = (0.6, 0.7, 0.8, 0.9, 0.95)
"""Of the two-sided interval, which are compared by `--choose`."""
GAPS = {
    "better": (-1.0, 0.0),
    "0 to 2": (0.0, 0.02),
    "2 to 5": (0.02, 0.05),
    "5 to 10": (0.05, 0.1),
    "10 on": (0.1, 1.0),
}
KINDS = ("champion", "elsewhere", "challenger")
Kind = str
"""Whose map: the champion's, that of another window, or that of this window."""
Maps = Mapping[Share, LinearMap]
Table = NDArray[np.float64]
Key = tuple[Share | None, Kind]
"""Whose answer: that of a share with the map of a kind; None is the unmerged model's."""


def main() -> None:
    start = time.perf_counter()
    choose = "--choose" in sys.argv
    seed, windows = (CHOOSING_SEED, CHOOSING_WINDOWS) if choose else (0, WINDOWS)
    measured = measure_windows(seed, windows)
    levels = LEVELS if choose else (VERDICT_LEVEL,)
    decisions = Decisions(measured, levels)
    report = decisions.report() | {
        "cpu_seconds": time_verdicts(Camera.of(seed, windows)),
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(report))


@dataclass(frozen=True)
class WindowAnswers:
    """The answers of all shares on the frames of one window, in their order."""

    frames: FrameSet
    held_out: tuple[int, ...]
    """Places of the frames that no statistics were measured on."""
    answers: Mapping[tuple[str, Share | None, Kind], AnswerArray]
    """By model, share and kind; share None is the unmerged model."""
    sizes: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Measured:
    """Answers in all windows."""

    deployment: Deployment
    windows: Sequence[WindowAnswers]


@dataclass(frozen=True)
class Camera:
    """A camera with its windows, and the maps that a search on each would fit."""

    deployment: Deployment
    settings: PassSettings
    seed: int
    count: int
    """Number of windows, besides the one before them all."""

    @classmethod
    def of(cls, seed: int, count: int) -> Camera:
        out = ROOT / "out" / "bench-verdict"
        config = load_arm_config(seed, out, {"scenes": {"seed": 1}, "count": 288})
        deployment = load_deployment(config, ConsoleReporter())
        return cls(deployment, config.pass_settings, seed, count)

    def window(self, number: int) -> FrameSet:
        """Return the frames of a window, from 1 on; window 0 is the one before them all."""
        return RenderedScenes(changed_camera(4000 + 100 * self.seed + number), WINDOW)

    @cached_property
    def base(self) -> Moments:
        """What the champion's search knew: frames by day, and the window before."""
        base = self.moments(RenderedScenes(SceneSettings(seed=300 + self.seed), DAY_FRAMES))
        base.merge(self.moments(halves(self.window(0))[0]))
        return base

    @cached_property
    def champion_maps(self) -> Maps:
        return maps_of(self.deployment, [self.base])

    def moments(self, frames: FrameSet) -> Moments:
        """Return the moments of the pairs that are shared."""
        pairs = list(dict.fromkeys(Pair(share.donor, share.recipient) for share in ALL_SHARES))
        models, facts = self.deployment.fused_models, self.deployment.facts
        return accumulate_moments(models, facts, pairs, frames, self.settings)

    def answers(self, numbers: Sequence[int]) -> Iterator[WindowAnswers]:
        """Run all shares on some of the windows."""
        before = self._maps(self.moments(halves(self.window(self._before(numbers[0])))[0]))
        for number in numbers:
            window = self.window(number)
            fitted, held_out = halves(window)
            moments = self.moments(fitted)
            own = self._maps(moments)
            kinds = {"champion": self.champion_maps, "elsewhere": before}
            pieces = [(held_out.indices, own)]
            for fold in folds_of(len(fitted), FRAME_FOLDS):
                others = moments_without(moments, fold, self.settings, len(fitted))
                places = tuple(fitted.indices[place] for place in fold)
                pieces.append((places, self._maps(others)))
            yield run_window(self.deployment, window, held_out.indices, kinds, pieces)
            before = own

    def _maps(self, own: Moments) -> Maps:
        return maps_of(self.deployment, [self.base, own])

    def _before(self, number: int) -> int:
        return number - 1 if number > 1 else self.count


def measure_windows(seed: int, count: int) -> Measured:
    """Run all shares on all windows of a camera."""
    camera, reporter = Camera.of(seed, count), ConsoleReporter()
    reporter.step(f"Answers in {count} windows")
    results = []
    with reporter.progress("windows", count) as progress:
        for window in camera.answers(range(1, count + 1)):
            results.append(window)
            progress(1)
    return Measured(camera.deployment, results)


def time_verdicts(camera: Camera) -> dict[str, float]:
    """Return the processor time of both verdicts about a pair of plans, and the ratio.

    The inspection of the new frames, which both need, is not part of it.
    """
    deployment, window = camera.deployment, camera.window(1)
    fitted, held_out = halves(window)
    plan = SharePlan((SHARES["classifier"][0], SHARES["detector"][0]))
    own = camera.moments(fitted)
    parts = [
        FittedPart(camera.base, DAY_FRAMES),
        FittedPart(own, len(fitted), fitted.indices),
    ]
    fitting = CrossFitting(deployment, plan, parts, camera.settings)
    served = fitting.answers_without([[], []])
    setup = EvaluationSetup(deployment.deployed_models, deployment.facts, {}, batch=16)
    reference = BundleFidelity.prepare(setup, window)
    champion = reference.measure_answers(served)
    start = time.process_time()
    on_held_out = BundleFidelity.prepare(setup, held_out)
    old = [on_held_out.measure_answers(served) for _ in range(2)]
    old[0].minus(old[1])
    middle = time.process_time()
    pieces = [Piece(held_out.indices, served), *fitting.pieces()]
    answers = collect_pieces(pieces, setup, window, silent)
    reference.measure_collected(answers).minus(champion, VERDICT_LEVEL)
    end = time.process_time()
    return {
        "held out": round(middle - start, 2),
        "every frame": round(end - middle, 2),
        "ratio": round((end - middle) / (middle - start), 2),
    }


def halves(window: FrameSet) -> tuple[Subset, Subset]:
    """Return the frames for the statistics and those held out, as a search divides a window."""
    return split_parts(JoinedFrames((window, window)), WINDOW // 4)[1]


def copied(moments: Moments) -> Moments:
    pairs = [pair for rows in moments.grids.values() for pair in rows.pairs]
    return moments_of_pairs(moments, pairs)


def maps_of(deployment: Deployment, parts: Sequence[Moments]) -> Maps:
    """Return the maps of all shares, fitted on all parts."""
    total = sum_moments([copied(part) for part in parts])
    return Statistics(total, deployment.facts).linear_maps(ALL_SHARES)


def labelled(share: Share, kind: Kind) -> Share:
    """Return a share that is told apart from the same share with another map, by its rank."""
    return Share(share.recipient, share.donor, AdapterSpec("linear", label_rank(share, kind)))


def label_rank(share: Share, kind: Kind) -> int:
    return 1000 * (1 + KINDS.index(kind)) + share.adapter.rank


def run_window(
    deployment: Deployment,
    window: FrameSet,
    held_out: tuple[int, ...],
    kinds: Mapping[Kind, Maps],
    pieces: Sequence[tuple[tuple[int, ...], Maps]],
) -> WindowAnswers:
    """Run all shares on each piece of the window, with the challenger's maps of that piece."""
    models = deployment.fused_models
    keys = list(product(ALL_SHARES, KINDS))
    plans = [SharePlan((labelled(share, kind),)) for share, kind in keys]
    parts: dict[tuple[str, Share | None, Kind], list[AnswerArray]] = {}
    order: list[int] = []
    sizes: list[tuple[int, int]] = []
    for places, own in pieces:
        by_kind = {**kinds, "challenger": own}
        maps = {labelled(share, kind): by_kind[kind][share] for share, kind in keys}
        plan_set = PlanSet(models, deployment.facts, [UNMERGED_PLAN, *plans], maps)
        setup = EvaluationSetup(models, deployment.facts, maps, batch=16)
        collected = collect_answers(
            PlanSetAnswers(plan_set, models), setup, Subset(window, places), silent
        )
        unmerged, *merged = plan_set.outputs
        for name, output in unmerged.items():
            parts.setdefault((name, None, ""), []).append(collected.answers[output])
        for (share, kind), outputs in zip(keys, merged, strict=True):
            name = share.recipient.model
            parts.setdefault((name, share, kind), []).append(collected.answers[outputs[name]])
        order += places
        sizes += collected.frame_sizes
    sort = np.argsort(order)
    answers = {key: np.concatenate(arrays)[sort] for key, arrays in parts.items()}
    return WindowAnswers(window, held_out, answers, [sizes[k] for k in sort])


Scores = Mapping[tuple[str, Share | None, Kind], FrameScores]


def scores_of(
    deployment: Deployment, windows: Sequence[WindowAnswers], places: Sequence[Sequence[int]]
) -> Scores:
    """Score all answers on some frames of the windows against the unmerged models' answers."""
    frames = JoinedFrames(
        tuple(Subset(w.frames, tuple(own)) for w, own in zip(windows, places, strict=True))
    )
    sizes = [w.sizes[k] for w, own in zip(windows, places, strict=True) for k in own]
    collected = {
        key: np.concatenate(
            [w.answers[key][list(own)] for w, own in zip(windows, places, strict=True)]
        )
        for key in windows[0].answers
    }
    models = deployment.fused_models
    unmerged = {name: collected[name, None, ""] for name in models}
    expected = answers_as_expected(unmerged, sizes, models, frames)
    return {
        key: score_answers(answers, expected[key[0]], models[key[0]], sizes)
        for key, answers in collected.items()
    }


def plan_fidelity(scores: Scores, kind: Kind, counts: Table) -> Table:
    """Return the fidelity of every plan in draws of the frames: (plans, draws).

    `counts` is (draws, frames). The plans are all combinations but the unmerged one.
    """
    drawn = {}
    for key, model_scores in scores.items():
        if key[2] in ("", kind):
            tables = [counts[k : k + 50] for k in range(0, len(counts), 50)]
            main = model_scores.main
            drawn[key[:2]] = np.concatenate([model_scores.resample(t)[main] for t in tables])
    choices = [[None, *shares] for shares in SHARES.values()]
    plans = [plan for plan in product(*choices) if any(plan)]
    return np.array(
        [
            np.nanmean([drawn[name, share] for name, share in zip(SHARES, plan, strict=True)], 0)
            for plan in plans
        ]
    )


@dataclass(frozen=True)
class Decisions:
    """The verdicts about all pairs of plans in all windows."""

    measured: Measured
    levels: Sequence[float]
    """Of the intervals by which every frame decides."""

    @cached_property
    def gaps(self) -> Table:
        """(windows, challengers, champions): by how much the challenger is really worse."""
        windows = self.measured.windows
        everywhere = [range(WINDOW)] * len(windows)
        scores = scores_of(self.measured.deployment, windows, everywhere)
        others = np.repeat(1 - np.eye(len(windows)), WINDOW, axis=1)
        challengers = plan_fidelity(scores, "elsewhere", others)
        champions = plan_fidelity(scores, "champion", others)
        return (champions[None] - challengers[:, None]).transpose(2, 0, 1)

    @cached_property
    def refused(self) -> dict[str, NDArray[np.bool_]]:
        """By verdict, (windows, challengers, champions): whether it refuses the challenger."""
        refused: dict[str, list[NDArray[np.bool_]]] = {}
        for window in self.measured.windows:
            leads = self._leads(window, window.held_out)
            refused.setdefault("held out", []).append(np.percentile(leads, 97.5, axis=2) < 0)
            leads = self._leads(window, range(WINDOW))
            for level in self.levels:
                upper = np.percentile(leads, 50 + 50 * level, axis=2)
                refused.setdefault(f"every frame {level:.0%}", []).append(upper < 0)
        return {name: np.array(values) for name, values in refused.items()}

    def _leads(self, window: WindowAnswers, places: Sequence[int]) -> Table:
        """Return the challengers' lead in each draw, (challengers, champions, draws)."""
        scores = scores_of(self.measured.deployment, [window], [places])
        seed = list(Subset(window.frames, tuple(places)).hash.encode())
        counts = np.concatenate(list(bootstrap_draws(len(places), seed)))
        assert len(counts) == BOOTSTRAP_DRAWS
        challengers = plan_fidelity(scores, "challenger", counts)
        champions = plan_fidelity(scores, "champion", counts)
        return challengers[:, None] - champions[None]

    def report(self) -> dict[str, Any]:
        """Return the rates of all verdicts by how much worse the challenger is."""
        by_gap: dict[str, Any] = {}
        for name, (low, high) in GAPS.items():
            members = (self.gaps > low) & (self.gaps <= high)
            by_gap[name] = {"decisions": int(members.sum())} | {
                verdict: rate(refused, members) for verdict, refused in self.refused.items()
            }
        return {"refused": by_gap, "windows": len(self.measured.windows)}


def rate(refused: NDArray[np.bool_], members: NDArray[np.bool_]) -> list[float]:
    """Return the fraction refused and its 95% interval, by drawing windows."""
    rng = np.random.default_rng(0)
    hits, counts = (refused & members).sum((1, 2)), members.sum((1, 2))
    drawn = rng.integers(len(hits), size=(2000, len(hits)))
    rates = hits[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1)
    fraction = hits.sum() / max(counts.sum(), 1)
    return [round(float(v), 4) for v in (fraction, *np.percentile(rates, [2.5, 97.5]))]


if __name__ == "__main__":
    main()
