"""Scores of networks with any other answer: how near it stays to that of the unmerged model."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import BadTruth, Truth
from search.evaluation.per_frame import MeanFrameScores
from search.evaluation.tasks.scoring import AnswerArray, Expected, Setting, UnmergedAnswers
from spaces.tasks.task import TaskName


class DenseScoring:
    """Only the relative error is known: there is no ground truth for any tensor."""

    task: ClassVar[TaskName] = "dense"
    label_formats: ClassVar[tuple[str, ...]] = ()
    labels_example: ClassVar[str | None] = None

    def compact(self, answer: Tensor) -> AnswerArray:
        return answer.flatten(1).cpu().numpy()

    def as_expected(
        self, answers: AnswerArray, setting: Setting, frames: FrameSet
    ) -> Expected | None:
        return UnmergedAnswers(frames, answers)

    def score(self, answers: AnswerArray, expected: Expected, setting: Setting) -> MeanFrameScores:
        """Return 1 minus the length of the change over that of the original, and at least 0."""
        assert isinstance(expected, UnmergedAnswers)
        change = np.linalg.norm(answers - expected.answers, axis=1)
        length = np.maximum(np.linalg.norm(expected.answers, axis=1), 1e-12)
        return MeanFrameScores({"values": np.maximum(0, 1 - change / length)})

    def check(self, truth: Truth, num_classes: int, model: str) -> None:
        raise BadTruth(f"truth.{model}: there is no ground truth for a dense network")

    def problem(self, score: float, truth: Truth) -> str | None:
        return None
