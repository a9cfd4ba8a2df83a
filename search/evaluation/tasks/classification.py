"""Scores of classifiers: top-1 and top-5."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import ClassTruth, MaskTruth, Truth, check_classes
from search.evaluation.bootstrap import DrawCounts
from search.evaluation.per_frame import FrameScores
from search.evaluation.tasks.scoring import AnswerArray, Expected, Setting
from search.utils.arrays import FloatVector
from spaces.tasks.task import TaskName

TopClasses = NDArray[np.int64]
"""(frames, 5) classes by falling logit; fewer columns if the model has fewer classes."""
ONE_SIDED_95 = 1.645
"""The standard normal quantile of 95%."""


@dataclass(frozen=True, eq=False)
class ClassFrameScores(FrameScores):
    """Whether a classifier's first class, and any of its first five, is correct on each frame."""

    first: NDArray[np.bool_]
    """(frames,)"""
    among_five: NDArray[np.bool_]
    """(frames,)"""
    main = "top1"

    @property
    def frame_count(self) -> int:
        return len(self.first)

    def resample(self, counts: DrawCounts) -> dict[str, FloatVector]:
        totals = counts.sum(1)
        return {"top1": counts @ self.first / totals, "top5": counts @ self.among_five / totals}


class ClassificationScoring:
    """The first class is right or wrong, and so is the best of the first five."""

    task: ClassVar[TaskName] = "classification"
    label_formats: ClassVar[tuple[str, ...]] = ("csv", "image_folder", "real", "scenes")
    labels_example: ClassVar[str | None] = "labels.csv"

    def compact(self, answer: Tensor) -> AnswerArray:
        return top_classes(answer.cpu().numpy())

    def as_expected(
        self, answers: AnswerArray, setting: Setting, frames: FrameSet
    ) -> Expected | None:
        return labels_from_answers(answers, frames)

    def score(
        self, answers: AnswerArray, expected: Expected, setting: Setting
    ) -> ClassFrameScores:
        assert isinstance(expected, ClassTruth)
        return score_classes(answers, expected.labels)

    def check(self, truth: Truth, num_classes: int, model: str) -> None:
        assert not isinstance(truth, MaskTruth)
        check_classes(truth, num_classes, model)

    def problem(self, score: float, truth: Truth) -> str | None:
        assert isinstance(truth, ClassTruth)
        chance = chance_of(truth)
        if chance is None:
            return None if score > 0 else "a top-1 of 0%"
        if score > highest_by_chance(chance, len(truth.labels)):
            return None
        return f"a top-1 of {score:.1%}, not significantly above the {chance:.1%} of chance"


def top_classes(logits: NDArray[np.float32]) -> TopClasses:
    """Return the five best classes of (frames, classes) logits.

    This is all that scoring needs; of 1000 classes it takes a hundredth of the memory.
    """
    return np.argsort(-logits, axis=1, kind="stable")[:, :5].copy()


def score_classes(answers: TopClasses, labels: Sequence[Collection[int]]) -> ClassFrameScores:
    """Score on which frames the first class, or any of the first five, is correct."""
    hits = np.array(
        [[c in correct for c in row] for row, correct in zip(answers, labels, strict=True)]
    )
    return ClassFrameScores(hits[:, 0], np.asarray(hits.any(1)))


def labels_from_answers(answers: TopClasses, frames: FrameSet) -> ClassTruth:
    """Return a classifier's answers on the frames as if they were ground truth."""
    return ClassTruth.single(frames, (int(row[0]) for row in answers))


def chance_of(truth: ClassTruth) -> float | None:
    """Return the top-1 accuracy of the best constant answer, but at least that of guessing.

    Guessing is among the classes that are present. It is None if one class is right on all frames.
    """
    counts = Counter(label for classes in truth.labels for label in classes)
    most_frequent = counts.most_common(1)[0][1] / len(truth.labels)
    return None if most_frequent == 1 else max(1 / len(counts), most_frequent)


def highest_by_chance(chance: float, frames: int) -> float:
    """Return the share of hits that chance exceeds in one of twenty draws of the frames."""
    return chance + ONE_SIDED_95 * math.sqrt(chance * (1 - chance) / frames)
