"""Fidelity and ground truth of many plans in one pass over the frames."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from search.data.frames import FrameSet, batches
from search.data.ground_truth import Truth
from search.evaluation.per_frame import FrameScores, Scores, main_score, scores_by_model
from search.evaluation.tasks.registry import SCORING
from search.evaluation.tasks.scoring import AnswerArray, Expected, FrameSizes, Setting
from search.utils.progress import Progress
from spaces.inputs import Frame
from spaces.merged import LinearMaps, ModelsByName
from spaces.model_facts import ModelFacts
from spaces.node import Output
from spaces.plan import SharePlan
from spaces.plan_set import PlanSet
from spaces.stages import StagedModel

AnswerFunction = Callable[[list[Frame]], Iterable[tuple[Output, Tensor]]]
"""From a batch of frames to the distinct answers, each with its key."""
UNMERGED_PLAN = SharePlan()


@dataclass(frozen=True)
class EvaluationSetup:
    """The models that plans are evaluated with."""

    models: ModelsByName
    facts: Mapping[str, ModelFacts]
    maps: LinearMaps
    """The linear map of every share that has one."""
    batch: int
    """Frames per forward pass."""


@dataclass(frozen=True)
class CollectedAnswers:
    """Every distinct answer over all frames."""

    answers: Mapping[Output, AnswerArray]
    frame_sizes: FrameSizes


def compute_fidelity(
    setup: EvaluationSetup, plans: Sequence[SharePlan], frames: FrameSet, progress: Progress
) -> list[dict[str, float | None]]:
    """Return, per plan and model, how well merged and unmerged answers agree, from 0 to 1.

    Of a classifier it is the share of frames with the same top-1 class; of a detector the mAP
    against the unmerged model's confident detections, or None where there are none; of an
    embedding the share of nearest frames that stay; of a segmentation the share of pixels with the
    same class. `progress` counts frames.
    """
    plan_set = PlanSet(setup.models, setup.facts, [UNMERGED_PLAN, *plans], setup.maps)
    collected = collect_answers(plan_set_answers(plan_set, setup.models), setup, frames, progress)
    unmerged, *merged = plan_set.outputs
    unmerged_answers = {name: collected.answers[output] for name, output in unmerged.items()}
    expected = answers_as_expected(unmerged_answers, collected.frame_sizes, setup.models, frames)
    fidelity: dict[Output, float | None] = {}
    for output in {output for outputs in merged for output in outputs.values()}:
        name = output.model
        fidelity[output] = (
            main_score(
                score_answers(
                    collected.answers[output],
                    expected[name],
                    setup.models[name],
                    collected.frame_sizes,
                ).scores
            )
            if name in expected
            else None
        )
    return [{name: fidelity[output] for name, output in outputs.items()} for outputs in merged]


def answers_as_expected(
    answers: Mapping[str, AnswerArray],
    frame_sizes: FrameSizes,
    models: ModelsByName,
    frames: FrameSet,
) -> dict[str, Expected]:
    """Return the unmerged models' answers as what fidelity is scored against.

    Models whose answers have nothing to score against are left out, such as detectors without a
    confident detection.
    """
    expected: dict[str, Expected] = {}
    for name, model_answers in answers.items():
        setting = Setting(models[name], frame_sizes)
        of_model = SCORING[models[name].task].as_expected(model_answers, setting, frames)
        if of_model is not None:
            expected[name] = of_model
    return expected


def compute_accuracy(
    setup: EvaluationSetup,
    plans: Sequence[SharePlan],
    truth: Mapping[str, Truth],
    progress: Progress,
) -> list[dict[str, Scores]]:
    """Return, per plan and model with ground truth, its scores.

    `progress` counts the steps of `verification_steps`.
    """
    return [scores_by_model(scores) for scores in score_frames(setup, plans, truth, progress)]


def score_frames(
    setup: EvaluationSetup,
    plans: Sequence[SharePlan],
    truth: Mapping[str, Expected],
    progress: Progress,
) -> list[dict[str, FrameScores]]:
    """Return, per plan and model with ground truth, its correct answers on each frame.

    Plans with the same answers share one object. `progress` counts the steps of
    `verification_steps`.
    """
    plan_set = PlanSet(setup.models, setup.facts, plans, setup.maps)
    plan_counts = Counter(output for outputs in plan_set.outputs for output in outputs.values())
    scores: dict[Output, FrameScores] = {}
    for names in group_by_frames(truth):
        answers = plan_set_answers(plan_set.restrict_to(names), setup.models)
        collected = collect_answers(answers, setup, truth[names[0]].frames, progress)
        for output, array in collected.answers.items():
            name = output.model
            scores[output] = score_answers(
                array, truth[name], setup.models[name], collected.frame_sizes
            )
            progress(plan_counts[output])
    return [
        {name: scores[output] for name, output in outputs.items() if name in truth}
        for outputs in plan_set.outputs
    ]


def verification_steps(plans: int, truth: Mapping[str, Truth]) -> int:
    """Return how many steps `compute_accuracy` reports: frames read and answers scored.

    Scoring counts because it takes minutes for hundreds of detectors.
    """
    frames = sum(len(truth[names[0]].frames) for names in group_by_frames(truth))
    return frames + plans * len(truth)


def quality_kept_by_model(
    scores: Mapping[str, Scores],
    baseline: Mapping[str, Scores],
    fidelity: Mapping[str, float | None],
) -> dict[str, float]:
    """Return each model's quality kept: its merged main score / its unmerged one (`baseline`).

    A model without ground truth, or with an unmerged score of 0, counts with its fidelity; it is
    left out if that is None.
    """
    quality: dict[str, float] = {name: f for name, f in fidelity.items() if f is not None}
    for name in _verifiable(baseline):
        quality[name] = main_score(scores[name]) / main_score(baseline[name])
    return quality


def quality_kept(
    scores: Mapping[str, Scores],
    baseline: Mapping[str, Scores],
    fidelity: Mapping[str, float | None],
) -> float | None:
    """Return the mean of `quality_kept_by_model`.

    Return None if no model has an unmerged score above 0: then nothing was verified.
    """
    quality = quality_kept_by_model(scores, baseline, fidelity)
    return float(np.mean(list(quality.values()))) if _verifiable(baseline) else None


def _verifiable(baseline: Mapping[str, Scores]) -> list[str]:
    return [name for name, scores in baseline.items() if main_score(scores) > 0]


def score_answers(
    answers: AnswerArray, expected: Expected, model: StagedModel, frame_sizes: FrameSizes
) -> FrameScores:
    """Score one model's answers against its ground truth, or against the unmerged answers."""
    return SCORING[model.task].score(answers, expected, Setting(model, frame_sizes))


def group_by_frames(truth: Mapping[str, Expected]) -> list[list[str]]:
    """Group models by the frames of their ground truth, so that each frame is read once."""
    groups: dict[str, list[str]] = {}
    for name, model_truth in truth.items():
        groups.setdefault(model_truth.frames.hash, []).append(name)
    return list(groups.values())


def plan_set_answers(plan_set: PlanSet, models: ModelsByName) -> AnswerFunction:
    """Return a function that computes every distinct answer of the plans."""

    def answers(pictures: list[Frame]) -> Iterable[tuple[Output, Tensor]]:
        inputs = {name: models[name].prepare_frames(pictures) for name in plan_set.inputs_read}
        return plan_set.answers(inputs)

    return answers


def collect_answers(
    answer: AnswerFunction, setup: EvaluationSetup, frames: FrameSet, progress: Progress
) -> CollectedAnswers:
    """Run over all frames and collect the part of every answer that scoring needs."""
    batch_answers: defaultdict[Output, list[AnswerArray]] = defaultdict(list)
    sizes: list[tuple[int, int]] = []
    for _, pictures in batches(frames, setup.batch):
        for output, tensor in answer(pictures):
            scoring = SCORING[setup.models[output.model].task]
            batch_answers[output].append(scoring.compact(tensor))
        sizes += [(picture.shape[0], picture.shape[1]) for picture in pictures]
        progress(len(pictures))
    return CollectedAnswers(
        {output: np.concatenate(arrays) for output, arrays in batch_answers.items()}, sizes
    )
