"""Fidelity and ground truth of many plans in one pass over the frames."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from search.data.frames import FrameSet, batches
from search.data.ground_truth import BoxTruth, ClassTruth, Truth
from search.evaluation.accuracy import (
    Geometry,
    boxes_of,
    coco_map,
    labels_of,
    ranked,
    top_k,
)
from search.evaluation.per_frame import FrameScores, Scores, main_score, scores_of
from search.utils.progress import Progress
from spaces.inputs import Frame
from spaces.merged import LinearMaps, ModelsByName
from spaces.model_facts import ModelFacts
from spaces.plan import SharePlan
from spaces.plan_set import OutputKey, PlanSet
from spaces.stages import StagedModel

Answers = NDArray[Any]
"""`Ranked` for a classifier, `Detections` for a detector."""
Answering = Callable[[list[Frame]], Iterable[tuple[OutputKey, Tensor]]]
"""From a batch of frames to answers, each with what tells it from the others."""
BASELINE = SharePlan()


@dataclass(frozen=True)
class EvaluationSetup:
    """What plans are verified with."""

    models: ModelsByName
    facts: Mapping[str, ModelFacts]
    maps: LinearMaps
    batch: int


@dataclass(frozen=True)
class Collected:
    """Every distinct answer over all frames, and the frames' sizes."""

    answers: Mapping[OutputKey, Answers]
    sizes: list[tuple[int, int]]


def fidelity(
    bench: EvaluationSetup, plans: Sequence[SharePlan], frames: FrameSet, progress: Progress
) -> list[dict[str, float | None]]:
    """For each plan and model, how well the merged answers agree with the original's.

    Classifiers: share of equal top-1 classes. Detectors: mAP against the original's confident
    detections, None where it has none.
    """
    together = PlanSet(bench.models, bench.facts, [BASELINE, *plans], bench.maps)
    collected = collect(answering(together, bench.models), bench, frames, progress)
    baseline, *merged = together.outputs
    originals = {name: collected.answers[output] for name, output in baseline.items()}
    right = as_truth(originals, collected, bench, frames)
    known: dict[OutputKey, float | None] = {}
    for output in {output for outputs in merged for output in outputs.values()}:
        name, answers = output[0], collected.answers[output]
        known[output] = (
            main_score(tally(name, answers, collected, bench, right[name]).scores)
            if name in right
            else None
        )
    return [{name: known[output] for name, output in outputs.items()} for outputs in merged]


def as_truth(
    originals: Mapping[str, Answers],
    collected: Collected,
    bench: EvaluationSetup,
    frames: FrameSet,
) -> dict[str, Truth]:
    """What the models answer unmerged, taken for right; without those confident of nothing."""
    right: dict[str, Truth | None] = {}
    for name, answers in originals.items():
        model = bench.models[name]
        if model.task == "classification":
            right[name] = labels_of(answers, frames)
        else:
            geometry = Geometry(collected.sizes, model.input)
            right[name] = boxes_of(answers, geometry, model.num_classes, frames)
    return {name: known for name, known in right.items() if known is not None}


def accuracy(
    bench: EvaluationSetup,
    plans: Sequence[SharePlan],
    truth: Mapping[str, Truth],
    progress: Progress,
) -> list[dict[str, Scores]]:
    """For each plan, and each model with ground truth, its scores."""
    return [scores_of(found) for found in tallies(bench, plans, truth, progress)]


def tallies(
    bench: EvaluationSetup,
    plans: Sequence[SharePlan],
    truth: Mapping[str, Truth],
    progress: Progress,
) -> list[dict[str, FrameScores]]:
    """For each plan, and each model with ground truth, what it gets right on each frame.

    Where plans answer the same, they have one tally.
    """
    together = PlanSet(bench.models, bench.facts, plans, bench.maps)
    times = Counter(output for outputs in together.outputs for output in outputs.values())
    known: dict[OutputKey, FrameScores] = {}
    for names in same_frames(truth):
        wanted = together.restrict_to(names)
        answers = answering(wanted, bench.models)
        collected = collect(answers, bench, truth[names[0]].frames, progress)
        for output, found in collected.answers.items():
            known[output] = tally(output[0], found, collected, bench, truth[output[0]])
            progress(times[output])
    return [
        {name: known[output] for name, output in outputs.items() if name in truth}
        for outputs in together.outputs
    ]


def steps_to_verify(plans: int, truth: Mapping[str, Truth]) -> int:
    """How many steps `accuracy` reports: every frame read, every plan's answer scored.

    Scoring hundreds of detectors takes minutes, too.
    """
    frames = sum(len(truth[names[0]].frames) for names in same_frames(truth))
    return frames + plans * len(truth)


def kept_by_model(
    scores: Mapping[str, Scores],
    baseline: Mapping[str, Scores],
    faithful: Mapping[str, float | None],
) -> dict[str, float]:
    """Merged / unmerged main score of each model.

    A model without ground truth, or with an unmerged score of 0, counts with its fidelity, if
    that is known.
    """
    kept: dict[str, float] = {name: f for name, f in faithful.items() if f is not None}
    for name in _measured(baseline):
        kept[name] = main_score(scores[name]) / main_score(baseline[name])
    return kept


def quality_kept(
    scores: Mapping[str, Scores],
    baseline: Mapping[str, Scores],
    faithful: Mapping[str, float | None],
) -> float | None:
    """Mean over the models of what each keeps.

    None if no model has an unmerged score above 0: then nothing was verified.
    """
    kept = kept_by_model(scores, baseline, faithful)
    return float(np.mean(list(kept.values()))) if _measured(baseline) else None


def _measured(baseline: Mapping[str, Scores]) -> list[str]:
    return [name for name, scores in baseline.items() if main_score(scores) > 0]


def tally(
    name: str, answers: Answers, collected: Collected, bench: EvaluationSetup, truth: Truth
) -> FrameScores:
    """What a model's answers got right."""
    if isinstance(truth, ClassTruth):
        return top_k(answers, truth.labels)
    assert isinstance(truth, BoxTruth)
    model = bench.models[name]
    geometry = Geometry(collected.sizes, model.input)
    return coco_map(answers, geometry, truth, model.num_classes)


def same_frames(truth: Mapping[str, Truth]) -> list[list[str]]:
    """Models grouped by the frames that their truth is for, so that each is read once."""
    groups: dict[str, list[str]] = {}
    for name, known in truth.items():
        groups.setdefault(known.frames.hash, []).append(name)
    return list(groups.values())


def answering(together: PlanSet, models: ModelsByName) -> Answering:
    """Every distinct answer of the plans."""

    def answers(pictures: list[Frame]) -> Iterable[tuple[OutputKey, Tensor]]:
        inputs = {name: models[name].prepare_frames(pictures) for name in together.inputs_read}
        return together.answers(inputs)

    return answers


def collect(
    answers: Answering, bench: EvaluationSetup, frames: FrameSet, progress: Progress
) -> Collected:
    """What is scored of all answers for all frames."""
    parts: defaultdict[OutputKey, list[Answers]] = defaultdict(list)
    sizes: list[tuple[int, int]] = []
    for _, pictures in batches(frames, bench.batch):
        for output, answer in answers(pictures):
            parts[output].append(_kept(answer, bench.models[output[0]]))
        sizes += [(picture.shape[0], picture.shape[1]) for picture in pictures]
        progress(len(pictures))
    return Collected({output: np.concatenate(p) for output, p in parts.items()}, sizes)


def _kept(answer: Tensor, model: StagedModel) -> Answers:
    """What is scored of a batch's answer: all logits of hundreds of plans would be gigabytes."""
    found = answer.cpu().numpy()
    return ranked(found) if model.task == "classification" else found
