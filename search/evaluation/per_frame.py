"""Scores of a model's answers frame by frame, from which any draw of the frames is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.evaluation.bootstrap import DrawCounts
from search.utils.arrays import FloatMatrix, FloatVector

Scores = dict[str, float]
"""By name, from 0 to 1: top1 and top5 of a classifier; map, ap50 and ap_CATEGORY of a detector;
recall1 and recall5 of an embedding; miou, pixels and iou_CLASS of a segmentation.

Against the unmerged model's answers, an embedding has neighbours and cosine, a segmentation
pixels, and a dense network values.
"""
MAIN_SCORES = ("map", "miou", "recall1", "top1", "neighbours", "pixels", "values")
"""The names of the scores that quality is based on; of a model's scores, the first of them."""


def main_score_name(scores: Container[str]) -> str:
    """Return the name of the score that quality is based on."""
    return next(name for name in MAIN_SCORES if name in scores)


def main_score(scores: Scores) -> float:
    """Return the score that quality is based on."""
    return scores[main_score_name(scores)]


class FrameScores(ABC):
    """One model's correct answers on each frame, from which any draw of the frames is scored."""

    @property
    @abstractmethod
    def main(self) -> str:
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
class MeanFrameScores(FrameScores):
    """Scores that are the means of one number per frame; NaN where a frame has none."""

    values: Mapping[str, FloatVector]
    """(frames,) of each score; the first is the main score."""

    @property
    def main(self) -> str:
        return next(iter(self.values))

    @property
    def frame_count(self) -> int:
        return len(self.values[self.main])

    def resample(self, counts: DrawCounts) -> dict[str, FloatVector]:
        return {name: _mean_of_drawn(values, counts) for name, values in self.values.items()}


def _mean_of_drawn(values: FloatVector, counts: DrawCounts) -> FloatVector:
    defined = np.isfinite(values)
    totals = counts @ defined
    sums = counts @ np.where(defined, values, 0.0)
    means: FloatVector = np.full(len(counts), np.nan)
    np.divide(sums, totals, out=means, where=totals > 0)
    return means


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
