"""A bundle measured as it is: its answers against its original models', and ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import Truth
from search.evaluation.bootstrap import Vector, interval
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import (
    BASELINE,
    Answering,
    Answers,
    Collected,
    EvaluationSetup,
    answering,
    as_truth,
    collect,
    kept_by_model,
    same_frames,
    tallies,
    tally,
)
from search.evaluation.per_frame import FrameScores, Tallies, main_score, mean_known, scores_of
from search.utils.progress import Progress, silent
from spaces.bundle import Bundle
from spaces.inputs import Frame
from spaces.plan_set import OutputKey, PlanSet


@dataclass(frozen=True)
class BundleQuality:
    """What a bundle keeps of what its models can do unmerged."""

    by_model: Mapping[str, float | None]
    """None where nothing is known: without ground truth, or an original confident of nothing."""
    drawn: Vector | None
    """The mean over the models in each draw of the frames; None if nothing is known."""

    @property
    def mean(self) -> float | None:
        return mean_known(self.by_model)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean, at 95%."""
        if self.drawn is None or self.mean is None:
            return None
        return interval(self.mean, self.drawn)

    def minus(self, other: BundleQuality) -> Difference | None:
        """Return by how much this bundle is better than another, measured on the same frames.

        The interval is of the paired difference: hard frames are hard for both. None if either
        quality is unknown.
        """
        if self.drawn is None or other.drawn is None or self.mean is None or other.mean is None:
            return None
        value = self.mean - other.mean
        return Difference(value, *interval(value, self.drawn - other.drawn))


@dataclass(frozen=True)
class ByAnswers:
    """What models answer unmerged, taken for right: `search.verify.fidelity` of bundles."""

    bench: EvaluationSetup
    right: Mapping[str, Truth]
    """Of the models that are confident of anything."""

    @classmethod
    def on(
        cls, bench: EvaluationSetup, frames: FrameSet, progress: Progress = silent
    ) -> ByAnswers:
        unmerged = PlanSet(bench.models, bench.facts, [BASELINE], {})
        collected = collect(answering(unmerged, bench.models), bench, frames, progress)
        return cls(bench, as_truth(_by_model(collected), collected, bench, frames))

    def measure(self, bundle: Bundle, progress: Progress = silent) -> BundleQuality:
        found = _tallied(bundle, self.bench, self.right, progress)
        by_model = {
            name: main_score(found[name].scores) if name in found else None
            for name in self.bench.models
        }
        return BundleQuality(by_model, Resampling(self.right).mean_drawn(found))


@dataclass(frozen=True)
class ByTruth:
    """Ground truth, against what the models get right unmerged: `search.verify.quality_kept`."""

    bench: EvaluationSetup
    truth: Mapping[str, Truth]
    unmerged: Tallies

    @classmethod
    def on(cls, bench: EvaluationSetup, truth: Mapping[str, Truth]) -> ByTruth:
        return cls(bench, truth, tallies(bench, [BASELINE], truth, silent)[0])

    def measure(self, bundle: Bundle, agreed: BundleQuality) -> BundleQuality:
        """Models without ground truth count with what they `agreed` on by answers."""
        found = _tallied(bundle, self.bench, self.truth, silent)
        kept = kept_by_model(scores_of(found), scores_of(self.unmerged), agreed.by_model)
        drawn = Resampling(self.truth).quality_drawn(kept, found, self.unmerged)
        return BundleQuality({name: kept.get(name) for name in self.bench.models}, drawn)


def served(bundle: Bundle) -> Answering:
    """The bundle's answers, told apart by their models' names."""

    @torch.inference_mode()
    def answers(pictures: list[Frame]) -> list[tuple[OutputKey, Tensor]]:
        found = bundle.merged(bundle.prepare_frames(pictures))
        return [((name, ()), answer) for name, answer in found.items()]

    return answers


def _tallied(
    bundle: Bundle, bench: EvaluationSetup, right: Mapping[str, Truth], progress: Progress
) -> dict[str, FrameScores]:
    """Of each model, what the bundle gets right on each frame."""
    found: dict[str, FrameScores] = {}
    for names in same_frames(right):
        collected = collect(served(bundle), bench, right[names[0]].frames, progress)
        answers = _by_model(collected)
        for name in names:
            found[name] = tally(name, answers[name], collected, bench, right[name])
    return found


def _by_model(collected: Collected) -> dict[str, Answers]:
    """Where each model has one answer."""
    return {name: answers for (name, _), answers in collected.answers.items()}


Measure = Literal["truth", "fidelity"]


class Difference(NamedTuple):
    """By how much one plan is better than another, with the 95% interval of the difference."""

    value: float
    low: float
    high: float
