"""Scores of embeddings: whether the nearest other frames show the same."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import BadTruth, ClassTruth, Truth
from search.evaluation.per_frame import FrameScores, MeanFrameScores
from search.evaluation.tasks.classification import highest_by_chance
from search.evaluation.tasks.scoring import AnswerArray, Expected, Setting, UnmergedAnswers
from search.utils.arrays import FloatMatrix, FloatVector
from spaces.tasks.task import TaskName

NEIGHBOURS = 10
"""Nearest frames that are compared between two embeddings; at most a quarter of the others."""
FIRST = 5
"""Nearest frames among which recall@5 looks for the same identity."""


class EmbeddingScoring:
    """Frames are looked up among the others by the cosine of their embeddings.

    A bootstrap draws the frames that are looked up; they are looked up among all frames.
    """

    task: ClassVar[TaskName] = "embedding"
    label_formats: ClassVar[tuple[str, ...]] = ("image_folder", "csv")
    labels_example: ClassVar[str | None] = "identities"

    def compact(self, answer: Tensor) -> AnswerArray:
        return answer.cpu().numpy()

    def as_expected(
        self, answers: AnswerArray, setting: Setting, frames: FrameSet
    ) -> Expected | None:
        return UnmergedAnswers(frames, answers) if len(answers) > 1 else None

    def score(self, answers: AnswerArray, expected: Expected, setting: Setting) -> FrameScores:
        if isinstance(expected, UnmergedAnswers):
            return score_likeness(answers, expected.answers)
        assert isinstance(expected, ClassTruth)
        return score_recall(answers, identities(expected))

    def check(self, truth: Truth, num_classes: int, model: str) -> None:
        """Check that some identity has two frames; an embedding has no classes."""
        assert isinstance(truth, ClassTruth)
        if max(Counter(identities(truth).tolist()).values()) < 2:
            raise BadTruth(
                f"truth.{model}: no identity has two images, so none can be found by another: "
                "give a folder with one sub-folder per identity"
            )

    def problem(self, score: float, truth: Truth) -> str | None:
        assert isinstance(truth, ClassTruth)
        chance, looked_up = chance_of_recall(identities(truth))
        if score > highest_by_chance(chance, looked_up):
            return None
        return f"a recall@1 of {score:.1%}, not significantly above the {chance:.1%} of chance"


def identities(truth: ClassTruth) -> NDArray[np.int64]:
    """Return the identity of each frame, (frames,): the smallest where a frame shows several."""
    return np.array([min(labels) for labels in truth.labels], dtype=np.int64)


def score_likeness(merged: AnswerArray, unmerged: AnswerArray) -> MeanFrameScores:
    """Score how many nearest frames stay, and the cosine of each frame's two embeddings.

    `neighbours` is the share of a frame's nearest other frames that are still among its nearest.
    """
    count = max(1, min(NEIGHBOURS, (len(unmerged) - 1) // 4))
    before, after = (_unit(vectors) for vectors in (unmerged, merged))
    nearest = (_nearest(before, count), _nearest(after, count))
    kept = [len(np.intersect1d(*rows)) / count for rows in zip(*nearest, strict=True)]
    return MeanFrameScores(
        {"neighbours": np.array(kept), "cosine": (before * after).sum(1).clip(0, 1)}
    )


def score_recall(embeddings: AnswerArray, identity: NDArray[np.int64]) -> MeanFrameScores:
    """Score which frames find their identity first, and among the first five.

    A frame that is the only one of its identity is not looked up.
    """
    nearest = _nearest(_unit(embeddings), min(FIRST, len(identity) - 1))
    found = identity[nearest] == identity[:, None]
    alone = np.bincount(identity)[identity] < 2
    return MeanFrameScores(
        {
            "recall1": np.where(alone, np.nan, found[:, 0]),
            "recall5": np.where(alone, np.nan, found.any(1)),
        }
    )


def chance_of_recall(identity: NDArray[np.int64]) -> tuple[float, int]:
    """Return the recall@1 of random neighbours, and the number of frames that are looked up."""
    sizes = np.bincount(identity)[identity]
    looked_up: FloatVector = sizes[sizes > 1].astype(float)
    return float(((looked_up - 1) / (len(identity) - 1)).mean()), len(looked_up)


def _unit(vectors: AnswerArray) -> FloatMatrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatMatrix = vectors / np.maximum(lengths, 1e-12)
    return unit


def _nearest(unit: FloatMatrix, count: int) -> NDArray[np.intp]:
    """Return the nearest other frames of each frame, (frames, count), the nearest first."""
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]
