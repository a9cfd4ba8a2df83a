"""Scores of segmentations: mean IoU over the classes, and the share of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import MaskTruth, Truth
from search.data.masks import check_mask_classes, read_mask
from search.evaluation.bootstrap import DrawCounts
from search.evaluation.per_frame import FrameScores, MeanFrameScores, nan_mean
from search.evaluation.tasks.scoring import AnswerArray, Expected, Setting, UnmergedAnswers
from search.utils.arrays import FloatMatrix, FloatVector
from spaces.tasks.segmentation import to_frame
from spaces.tasks.task import TaskName

LOWEST_MIOU = 0.02
"""A mean IoU below this is chance."""
FEW_CLASSES = 256


@dataclass(frozen=True, eq=False)
class MaskFrameScores(FrameScores):
    """The pixels of each class on each frame: those that are right, and all that are involved."""

    names: Sequence[str]
    """(classes,)"""
    intersections: FloatMatrix
    """(frames, classes): pixels that have the class in the mask and in the answer."""
    unions: FloatMatrix
    """(frames, classes): pixels that have the class in the mask or in the answer."""
    labelled: FloatVector
    """(frames,): pixels with a class in the mask."""
    main = "miou"

    @property
    def frame_count(self) -> int:
        return len(self.labelled)

    def resample(self, counts: DrawCounts) -> dict[str, FloatVector]:
        """Return the mean IoU over the classes, each pooled over the frames, and the IoU of each.

        A class that is neither in a mask nor in an answer of a draw is undefined there.
        """
        right, involved = counts @ self.intersections, counts @ self.unions
        undefined = np.full_like(right, np.nan)
        by_class = np.divide(right, involved, out=undefined, where=involved > 0)
        scores = {"miou": nan_mean(by_class.T), "pixels": right.sum(1) / (counts @ self.labelled)}
        return scores | {
            f"iou_{name}": values for name, values in zip(self.names, by_class.T, strict=True)
        }


class SegmentationScoring:
    """Each pixel's class is right or wrong."""

    task: ClassVar[TaskName] = "segmentation"
    label_formats: ClassVar[tuple[str, ...]] = ("masks",)
    labels_example: ClassVar[str | None] = "masks"

    def compact(self, answer: Tensor) -> AnswerArray:
        small = torch.uint8 if answer.shape[1] <= FEW_CLASSES else torch.int16
        return answer.argmax(1).to(small).cpu().numpy()

    def as_expected(
        self, answers: AnswerArray, setting: Setting, frames: FrameSet
    ) -> Expected | None:
        return UnmergedAnswers(frames, answers)

    def score(self, answers: AnswerArray, expected: Expected, setting: Setting) -> FrameScores:
        if isinstance(expected, UnmergedAnswers):
            same = (answers == expected.answers).mean((1, 2))
            return MeanFrameScores({"pixels": same})
        assert isinstance(expected, MaskTruth)
        return score_masks(answers, expected, setting)

    def check(self, truth: Truth, num_classes: int, model: str) -> None:
        assert isinstance(truth, MaskTruth)
        check_mask_classes(truth, num_classes, model)

    def problem(self, score: float, truth: Truth) -> str | None:
        return f"a mean IoU of only {score:.3f}" if score < LOWEST_MIOU else None


def score_masks(answers: AnswerArray, truth: MaskTruth, setting: Setting) -> MaskFrameScores:
    """Compare each answer with its mask, in pixels of the frame.

    Pixels that the mask ignores do not count, nor do those that the input does not show.
    """
    classes = setting.model.num_classes
    tables = [
        _confusion(
            classes,
            to_frame(torch.from_numpy(answer), size, setting.model.input),
            np.where(mask == truth.ignore, -1, mask),
        )
        for answer, size, mask in zip(
            answers, setting.frame_sizes, map(read_mask, truth.masks), strict=True
        )
    ]
    confusion = np.stack(tables).astype(float)
    diagonal = confusion.diagonal(axis1=1, axis2=2)
    involved = confusion.sum(1) + confusion.sum(2) - diagonal
    return MaskFrameScores(truth.class_names(classes), diagonal, involved, confusion.sum((1, 2)))


def _confusion(classes: int, answer: Tensor, mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pixels by the class in the mask and in the answer, (classes, classes).

    A pixel with -1 in either has no class and is left out.
    """
    answered = answer.numpy()
    counted = (mask >= 0) & (answered >= 0)
    pairs = mask[counted] * classes + answered[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
