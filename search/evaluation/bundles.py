"""Quality of a bundle as it is deployed: fidelity to its unmerged models, and ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import Truth
from search.evaluation.bootstrap import CONFIDENCE_LEVEL, percentile_interval
from search.evaluation.chance import scores_at_chance
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    AnswerFunction,
    CollectedAnswers,
    EvaluationSetup,
    PlanSetAnswers,
    answers_as_expected,
    collect_answers,
    group_by_frames,
    quality_kept_by_model,
    score_answers,
    score_frames,
)
from search.evaluation.per_frame import (
    FrameScores,
    FrameScoresByModel,
    main_score,
    mean_of_available,
    scores_by_model,
)
from search.evaluation.tasks.scoring import AnswerArray, Expected
from search.utils.arrays import FloatVector
from search.utils.progress import Progress, silent
from spaces.bundle import Bundle
from spaces.inputs import InputSpec
from spaces.node import Output
from spaces.plan_set import PlanSet


@dataclass(frozen=True)
class BundleQuality:
    """The share of its unmerged models' quality that a bundle keeps: fidelity or quality kept."""

    by_model: Mapping[str, float | None]
    """None where it is undefined: without ground truth, or without a confident detection."""
    drawn: FloatVector | None
    """(draws,): the mean over the models in each draw of the frames; None if undefined."""

    @property
    def mean(self) -> float | None:
        return mean_of_available(self.by_model)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean."""
        if self.drawn is None or self.mean is None:
            return None
        return percentile_interval(self.mean, self.drawn)

    def minus(self, other: BundleQuality, level: float = CONFIDENCE_LEVEL) -> Difference | None:
        """Return the quality of this bundle minus that of another, measured on the same frames.

        The interval, of confidence `level`, is that of the paired difference: hard frames are hard
        for both. Return None if either quality is undefined.
        """
        if self.drawn is None or other.drawn is None or self.mean is None or other.mean is None:
            return None
        value = self.mean - other.mean
        return Difference(value, *percentile_interval(value, self.drawn - other.drawn, level))


@dataclass(frozen=True)
class BundleFidelity:
    """Measures bundles against the unmerged models' answers, as `compute_fidelity` does plans."""

    setup: EvaluationSetup
    truth: Mapping[str, Expected]
    """The unmerged models' answers, without those of detectors that are never confident."""

    @classmethod
    def prepare(
        cls, setup: EvaluationSetup, frames: FrameSet, progress: Progress = silent
    ) -> BundleFidelity:
        """Run the unmerged models over the frames."""
        unmerged = PlanSet(setup.models, setup.facts, [UNMERGED_PLAN], {})
        answers = PlanSetAnswers(unmerged, setup.models)
        collected = collect_answers(answers, setup, frames, progress)
        truth = answers_as_expected(
            _answers_by_model(collected), collected.frame_sizes, setup.models, frames
        )
        return cls(setup, truth)

    def measure(self, bundle: Bundle, progress: Progress = silent) -> BundleQuality:
        """Return the bundle's fidelity."""
        return self.measure_answers(BundleAnswers(bundle), progress)

    def measure_answers(
        self, answers: AnswerFunction, progress: Progress = silent
    ) -> BundleQuality:
        """Return the fidelity of whatever answers, one answer for each model."""
        return self._quality(score_by_frame(answers, self.setup, self.truth, progress))

    def measure_collected(self, collected: CollectedAnswers) -> BundleQuality:
        """Return the fidelity of answers to all frames, one for each model."""
        answers = _answers_by_model(collected)
        return self._quality(
            {
                name: score_answers(
                    answers[name], expected, self.setup.models[name], collected.frame_sizes
                )
                for name, expected in self.truth.items()
            }
        )

    def _quality(self, scores: FrameScoresByModel) -> BundleQuality:
        by_model = {
            name: main_score(scores[name].scores) if name in scores else None
            for name in self.setup.models
        }
        return BundleQuality(by_model, Resampling(self.truth).mean_score_draws(scores))


@dataclass(frozen=True)
class BundleAccuracy:
    """Measures bundles against ground truth: their quality kept, as of plans."""

    setup: EvaluationSetup
    truth: Mapping[str, Truth]
    unmerged: FrameScoresByModel

    @classmethod
    def prepare(cls, setup: EvaluationSetup, truth: Mapping[str, Truth]) -> BundleAccuracy:
        """Score the unmerged models."""
        return cls(setup, truth, score_frames(setup, [UNMERGED_PLAN], truth, silent)[0])

    @property
    def at_chance(self) -> tuple[str, ...]:
        """The models whose unmerged score is no better than chance."""
        return tuple(scores_at_chance(scores_by_model(self.unmerged), self.truth))

    def measure(self, bundle: Bundle, fidelity: BundleQuality) -> BundleQuality:
        """Return the quality kept; models without ground truth count with their fidelity."""
        scores = score_by_frame(BundleAnswers(bundle), self.setup, self.truth, silent)
        return self.compare(scores, fidelity)

    def compare(self, merged: FrameScoresByModel, fidelity: BundleQuality) -> BundleQuality:
        """Return the quality kept, as `measure` does, of scores by model."""
        quality = quality_kept_by_model(
            scores_by_model(merged), scores_by_model(self.unmerged), fidelity.by_model
        )
        drawn = Resampling(self.truth).quality_draws(quality, merged, self.unmerged)
        return BundleQuality({name: quality.get(name) for name in self.setup.models}, drawn)


@dataclass(frozen=True)
class BundleAnswers:
    """Computes a bundle's answer of each model."""

    bundle: Bundle

    @property
    def inputs(self) -> Mapping[str, InputSpec]:
        return {name: self.bundle.inputs[name] for name in sorted(self.bundle.merged.inputs_read)}

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> list[tuple[Output, Tensor]]:
        device = next(self.bundle.merged.parameters()).device
        by_model = self.bundle.merged({name: value.to(device) for name, value in inputs.items()})
        return [(Output(name, ()), answer) for name, answer in by_model.items()]


def score_by_frame(
    answer: AnswerFunction,
    setup: EvaluationSetup,
    truth: Mapping[str, Expected],
    progress: Progress,
) -> dict[str, FrameScores]:
    """Score the answers of each model with a reference, frame by frame; one answer for each."""
    scores: dict[str, FrameScores] = {}
    for names in group_by_frames(truth):
        frames = truth[names[0]].frames
        collected = collect_answers(answer, setup, frames, progress)
        answers = _answers_by_model(collected)
        for name in names:
            scores[name] = score_answers(
                answers[name], truth[name], setup.models[name], collected.frame_sizes
            )
    return scores


def _answers_by_model(collected: CollectedAnswers) -> dict[str, AnswerArray]:
    """Return the answers by model name, where each model has one answer."""
    return {output.model: answers for output, answers in collected.answers.items()}


Measure = Literal["truth", "fidelity"]


class Difference(NamedTuple):
    """The quality of one plan minus that of another, with its interval."""

    value: float
    low: float
    high: float
