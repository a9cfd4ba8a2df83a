"""Scores of detectors: COCO's mAP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import BoxTruth, MaskTruth, Truth, check_classes
from search.evaluation.average_precision import CategoryMatches, match_detections
from search.evaluation.bootstrap import DrawCounts
from search.evaluation.per_frame import FrameScores, nan_mean
from search.evaluation.tasks.scoring import AnswerArray, Expected, Setting
from search.utils.arrays import FloatVector
from spaces.inputs import InputSpec, boxes_to_frame
from spaces.tasks.task import TaskName

DetectionArray = NDArray[np.float32]
"""(frames, n, 6): x1, y1, x2, y2 in input pixels, score, class from 1; rows of score 0 are empty.
"""

CONFIDENT_SCORE = 0.3
"""Detections of the unmerged model with at least this score serve as boxes for fidelity."""
LOWEST_MAP = 0.02
"""An mAP below this is chance: a trained detector is above it on frames of its kind."""


@dataclass(frozen=True, eq=False)
class BoxFrameScores(FrameScores):
    """A detector's matches with the ground truth, per category."""

    matches: Sequence[tuple[str, CategoryMatches]]
    """Each category's name and matches."""
    main = "map"

    @property
    def frame_count(self) -> int:
        return len(self.matches[0][1].box_counts)

    def resample(self, counts: DrawCounts) -> dict[str, FloatVector]:
        """Return COCO's mAP over IoU 0.50 to 0.95, AP at 0.50, and AP per category.

        A category without a box is undefined and excluded from the means, as in COCO.
        """
        precision = np.stack([matches.average_precision(counts) for _, matches in self.matches])
        means = {"map": nan_mean(precision.mean(2)), "ap50": nan_mean(precision[:, :, 0])}
        by_category: dict[str, FloatVector] = {}
        for (name, matches), values in zip(self.matches, precision.mean(2), strict=True):
            # Of categories with one name only one has boxes: its score counts.
            if f"ap_{name}" not in by_category or matches.box_counts.any():
                by_category[f"ap_{name}"] = values
        return means | by_category


@dataclass(frozen=True)
class BoxGeometry:
    """The sizes that map a detector's boxes to its frames."""

    frame_sizes: Sequence[tuple[int, int]]
    """(height, width) of each frame, in pixels."""
    spec: InputSpec
    """The detector's input."""


class DetectionScoring:
    """Boxes are matched to those of the ground truth, as COCO does."""

    task: ClassVar[TaskName] = "detection"
    label_formats: ClassVar[tuple[str, ...]] = ("coco", "scenes")
    labels_example: ClassVar[str | None] = "instances.json"

    def compact(self, answer: Tensor) -> AnswerArray:
        return answer.cpu().numpy()

    def as_expected(
        self, answers: AnswerArray, setting: Setting, frames: FrameSet
    ) -> Expected | None:
        """Return the confident detections; None without any."""
        model = setting.model
        geometry = BoxGeometry(setting.frame_sizes, model.input)
        return boxes_from_answers(answers, geometry, model.num_classes, frames)

    def score(self, answers: AnswerArray, expected: Expected, setting: Setting) -> BoxFrameScores:
        assert isinstance(expected, BoxTruth)
        geometry = BoxGeometry(setting.frame_sizes, setting.model.input)
        return score_boxes(answers, geometry, expected, setting.model.num_classes)

    def check(self, truth: Truth, num_classes: int, model: str) -> None:
        assert not isinstance(truth, MaskTruth)
        check_classes(truth, num_classes, model)

    def problem(self, score: float, truth: Truth) -> str | None:
        return f"an mAP of only {score:.3f}" if score < LOWEST_MAP else None


def score_boxes(
    detections: DetectionArray, geometry: BoxGeometry, truth: BoxTruth, num_classes: int
) -> BoxFrameScores:
    """Match the detections to the boxes of the ground truth, as COCO does."""
    results = _coco_results(detections, geometry, truth.category_ids(num_classes))
    boxes = [
        {**annotation, "image_id": k + 1}
        for k, frame_boxes in enumerate(truth.annotations)
        for annotation in frame_boxes
    ]
    images = _coco_images(geometry.frame_sizes)
    return BoxFrameScores(match_detections(images, boxes, truth.categories, results))


def boxes_from_answers(
    detections: DetectionArray, geometry: BoxGeometry, num_classes: int, frames: FrameSet
) -> BoxTruth | None:
    """Return a detector's confident detections on the frames as if they were ground truth.

    Return None without any confident detection: fidelity is undefined then.
    """
    ids = range(1, num_classes + 1)
    boxes: list[list[dict[str, Any]]] = [[] for _ in geometry.frame_sizes]
    for result in _coco_results(detections, geometry, ids):
        if result["score"] >= CONFIDENT_SCORE:
            boxes[result["image_id"] - 1].append({**result, "iscrowd": 0})
    if not any(boxes):
        return None
    categories = tuple({"id": i, "name": str(i)} for i in ids)
    return BoxTruth(frames, tuple(map(tuple, boxes)), categories)


def _coco_images(sizes: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"id": k + 1, "height": h, "width": w} for k, (h, w) in enumerate(sizes)]


def _coco_results(
    detections: DetectionArray, geometry: BoxGeometry, ids: Sequence[int | None]
) -> list[dict[str, Any]]:
    """Return detections as pycocotools reads them, without classes that have no category.

    `ids` holds the category id of each class, class 1 first.
    """
    results = []
    for k, (rows, size) in enumerate(zip(detections, geometry.frame_sizes, strict=True)):
        rows = rows[rows[:, 4] > 0]
        boxes = boxes_to_frame(rows[:, :4], size, geometry.spec)
        for (x1, y1, x2, y2), (score, label) in zip(boxes, rows[:, 4:], strict=True):
            category = ids[int(label) - 1]
            if category is None:
                continue
            results.append(
                {
                    "image_id": k + 1,
                    "category_id": category,
                    "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                    "area": float(x2 - x1) * float(y2 - y1),
                    "score": float(score),
                }
            )
    return results
