"""Scores of answers against ground truth, or against the unmerged model's answers.

Classifiers are scored by top-1 and top-5, detectors by COCO mAP.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.data.frames import FrameSet
from search.data.ground_truth import BoxTruth, ClassTruth
from search.evaluation.average_precision import match_detections
from search.evaluation.per_frame import BoxFrameScores, ClassFrameScores
from spaces.inputs import InputSpec, boxes_to_frame

TopClasses = NDArray[np.int64]
"""(frames, 5) classes by falling logit; fewer columns if the model has fewer classes."""
DetectionArray = NDArray[np.float32]
"""(frames, n, 6): x1, y1, x2, y2 in input pixels, score, class from 1; rows of score 0 are empty.
"""

CONFIDENT_SCORE = 0.3
"""Detections of the unmerged model with at least this score serve as boxes for fidelity."""


@dataclass(frozen=True)
class BoxGeometry:
    """The sizes that map a detector's boxes to its frames."""

    frame_sizes: Sequence[tuple[int, int]]
    """(height, width) of each frame, in pixels."""
    spec: InputSpec
    """The detector's input."""


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


def labels_from_answers(answers: TopClasses, frames: FrameSet) -> ClassTruth:
    """Return a classifier's answers on the frames as if they were ground truth."""
    return ClassTruth.single(frames, (int(row[0]) for row in answers))


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
