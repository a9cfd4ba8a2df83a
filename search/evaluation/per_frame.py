"""What a model got right, frame by frame, and its scores on any draw of the frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from search.evaluation.average_precision import Matches, Matrix
from search.evaluation.bootstrap import Counts, Vector

Scores = dict[str, float]


def main_name(scores: Container[str]) -> str:
    """The name of the score that quality is judged by."""
    return "map" if "map" in scores else "top1"


def main_score(scores: Scores) -> float:
    """The one number of a model's scores that quality is judged by."""
    return scores[main_name(scores)]


class FrameScores(ABC):
    """What one model's answers got right on each frame, so that any draw of them can be scored."""

    main: ClassVar[str]
    """The score that quality is judged by."""

    @property
    @abstractmethod
    def frames(self) -> int:
        """How many there are."""

    @abstractmethod
    def resampled(self, counts: Counts) -> dict[str, Vector]:
        """Each score of (draws, frames) `counts`; NaN in a draw in which it is not defined."""

    @cached_property
    def scores(self) -> Scores:
        """The scores of the frames as they are. What is not defined is left out, but for the main
        score: that is -1, as COCO has it."""
        found = self.resampled(np.ones((1, self.frames)))
        known = {name: float(value) for name, (value,) in found.items() if np.isfinite(value)}
        return {self.main: -1.0} | known


@dataclass(frozen=True, eq=False)
class ClassTally(FrameScores):
    """(frames,) of a classifier: whether its first class, and one of its first five, is right."""

    first: NDArray[np.bool_]
    among_five: NDArray[np.bool_]
    main: ClassVar[str] = "top1"

    @property
    def frames(self) -> int:
        return len(self.first)

    def resampled(self, counts: Counts) -> dict[str, Vector]:
        drawn = counts.sum(1)
        return {"top1": counts @ self.first / drawn, "top5": counts @ self.among_five / drawn}


@dataclass(frozen=True, eq=False)
class BoxTally(FrameScores):
    """A detector's matches, of each category with its name."""

    matches: Sequence[tuple[str, Matches]]
    main: ClassVar[str] = "map"

    @property
    def frames(self) -> int:
        return len(self.matches[0][1].boxes)

    def resampled(self, counts: Counts) -> dict[str, Vector]:
        """COCO's mAP over IoU 0.50 to 0.95, AP at 0.50, and AP per category.

        A category without a box is not defined and counts in no mean, as COCO has it.
        """
        found = np.stack([known.average_precision(counts) for _, known in self.matches])
        whole = {"map": means_known(found.mean(2)), "ap50": means_known(found[:, :, 0])}
        names = [f"ap_{name}" for name, _ in self.matches]
        return whole | dict(zip(names, found.mean(2), strict=True))


Tallies = Mapping[str, FrameScores]
"""By model."""


def scores_of(tallies: Tallies) -> dict[str, Scores]:
    return {name: tally.scores for name, tally in tallies.items()}


def means_known(values: Matrix) -> Vector:
    """Means of (categories, draws) over the categories that are not NaN; NaN where all are."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def mean_known(fidelity: Mapping[str, float | None]) -> float | None:
    """Mean over the models whose fidelity is known; None if none is."""
    known = [value for value in fidelity.values() if value is not None]
    return sum(known) / len(known) if known else None
