"""Scores of a model's answers frame by frame, from which any draw of the frames is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from search.evaluation.average_precision import CategoryMatches
from search.evaluation.bootstrap import DrawCounts
from search.utils.arrays import FloatMatrix, FloatVector

Scores = dict[str, float]
"""By name, from 0 to 1: top1 and top5 of a classifier; map, ap50 and ap_CATEGORY of a detector."""


def main_score_name(scores: Container[str]) -> str:
    """Return the name of the score that quality is based on: `map` or `top1`."""
    return "map" if "map" in scores else "top1"


def main_score(scores: Scores) -> float:
    """Return the score that quality is based on."""
    return scores[main_score_name(scores)]


class FrameScores(ABC):
    """One model's correct answers on each frame, from which any draw of the frames is scored."""

    main: ClassVar[str]
    """The name of the score that quality is based on."""

    @property
    @abstractmethod
    def frame_count(self) -> int:
        """The number of frames."""

    @abstractmethod
    def resample(self, counts: DrawCounts) -> dict[str, FloatVector]:
        """Return each score of every draw as (draws,); NaN in a draw where it is undefined.

        `counts` is (draws, frames).
        """

    @cached_property
    def scores(self) -> Scores:
        """The scores of the frames as they are.

        Undefined scores are left out, but an undefined main score is -1, as in COCO.
        """
        drawn = self.resample(np.ones((1, self.frame_count)))
        defined = {name: float(value) for name, (value,) in drawn.items() if np.isfinite(value)}
        return {self.main: -1.0} | defined


@dataclass(frozen=True, eq=False)
class ClassFrameScores(FrameScores):
    """Whether a classifier's first class, and any of its first five, is correct on each frame."""

    first: NDArray[np.bool_]
    """(frames,)"""
    among_five: NDArray[np.bool_]
    """(frames,)"""
    main: ClassVar[str] = "top1"

    @property
    def frame_count(self) -> int:
        return len(self.first)

    def resample(self, counts: DrawCounts) -> dict[str, FloatVector]:
        totals = counts.sum(1)
        return {"top1": counts @ self.first / totals, "top5": counts @ self.among_five / totals}


@dataclass(frozen=True, eq=False)
class BoxFrameScores(FrameScores):
    """A detector's matches with the ground truth, per category."""

    matches: Sequence[tuple[str, CategoryMatches]]
    """Each category's name and matches."""
    main: ClassVar[str] = "map"

    @property
    def frame_count(self) -> int:
        return len(self.matches[0][1].box_counts)

    def resample(self, counts: DrawCounts) -> dict[str, FloatVector]:
        """Return COCO's mAP over IoU 0.50 to 0.95, AP at 0.50, and AP per category.

        A category without a box is undefined and excluded from the means, as in COCO.
        """
        precision = np.stack([matches.average_precision(counts) for _, matches in self.matches])
        means = {"map": nan_mean(precision.mean(2)), "ap50": nan_mean(precision[:, :, 0])}
        names = [f"ap_{name}" for name, _ in self.matches]
        return means | dict(zip(names, precision.mean(2), strict=True))


FrameScoresByModel = Mapping[str, FrameScores]


def scores_by_model(frame_scores: FrameScoresByModel) -> dict[str, Scores]:
    """Return each model's scores over all its frames."""
    return {name: model_scores.scores for name, model_scores in frame_scores.items()}


def nan_mean(values: FloatMatrix) -> FloatVector:
    """Return the column means of (rows, draws) without NaN; NaN where a column is all NaN."""
    defined = np.isfinite(values)
    total = np.where(defined, values, 0).sum(0)
    return np.where(defined.any(0), total / np.maximum(defined.sum(0), 1), np.nan)


def mean_of_available(values: Mapping[str, float | None]) -> float | None:
    """Return the mean of the values that are not None; None if all are."""
    available = [value for value in values.values() if value is not None]
    return sum(available) / len(available) if available else None
