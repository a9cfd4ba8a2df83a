"""What every task says of the scores of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import Truth
from search.evaluation.per_frame import FrameScores
from spaces.stages import StagedModel
from spaces.tasks.task import FrameSize, TaskName

AnswerArray = NDArray[Any]
"""What scoring needs of the answers to all frames, (frames, ...)."""
FrameSizes = Sequence[FrameSize]


@dataclass(frozen=True, eq=False)
class UnmergedAnswers:
    """The answers of an unmerged model, to which those of plans are compared."""

    frames: FrameSet
    answers: AnswerArray


Expected = Truth | UnmergedAnswers
"""What answers are scored against."""


@dataclass(frozen=True)
class Setting:
    """The model that answers, and the (height, width) of each frame."""

    model: StagedModel
    frame_sizes: FrameSizes


class TaskScoring(Protocol):
    """The scores of the models that do one task."""

    task: ClassVar[TaskName]
    label_formats: ClassVar[tuple[str, ...]]
    """The keys of a config's section of `truth` that give labels for the task, the usual first."""
    labels_example: ClassVar[str | None]
    """The name of a file or folder of labels, for an example of a command."""

    def compact(self, answer: Tensor) -> AnswerArray:
        """Return the part of a batch's answer that scoring needs."""
        ...

    def as_expected(
        self, answers: AnswerArray, setting: Setting, frames: FrameSet
    ) -> Expected | None:
        """Return the answers of the unmerged model as what fidelity is scored against.

        Return None if they have nothing to score against.
        """
        ...

    def score(self, answers: AnswerArray, expected: Expected, setting: Setting) -> FrameScores:
        """Score the answers, frame by frame."""
        ...

    def check(self, truth: Truth, num_classes: int, model: str) -> None:
        """Check that the ground truth fits the model of that name.

        Raises:
            BadTruth: it does not.
        """
        ...

    def problem(self, score: float, truth: Truth) -> str | None:
        """Return in words why a main score is no better than chance; None if it is better."""
        ...
