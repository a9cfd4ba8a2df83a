"""Answers against ground truth: top-1 and top-5, COCO mAP; and against the original's answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.data.frames import FrameSet
from search.data.ground_truth import BoxTruth, ClassTruth
from search.evaluation.average_precision import match
from search.evaluation.per_frame import BoxTally, ClassTally
from spaces.inputs import InputSpec, boxes_to_frame

Ranked = NDArray[np.int64]
"""(frames, 5) classes, the one with the greatest logit first; fewer if there are fewer classes."""
Detections = NDArray[np.float32]
"""(frames, n, 6) as a detector's head gives them."""

CONFIDENT = 0.3
"""Detections of the original model with this score are what a merged one should reproduce."""


@dataclass(frozen=True)
class Geometry:
    """Where a detector's boxes lie: the sizes (h, w) of its frames, and its input."""

    frame_sizes: Sequence[tuple[int, int]]
    spec: InputSpec


def ranked(logits: NDArray[np.float32]) -> Ranked:
    """All that is asked of (frames, classes) logits; of 1000 classes a hundredth of the memory."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :5].copy()


def top_k(answers: Ranked, labels: Sequence[Collection[int]]) -> ClassTally:
    """Frames of which the first class, or one of the first five, is right."""
    hits = np.array(
        [[c in right for c in row] for row, right in zip(answers, labels, strict=True)]
    )
    return ClassTally(hits[:, 0], np.asarray(hits.any(1)))


def coco_map(
    detections: Detections, geometry: Geometry, truth: BoxTruth, num_classes: int
) -> BoxTally:
    """COCO's matches of the detections to the boxes."""
    found = _as_results(detections, geometry, truth.category_ids(num_classes))
    annotations = [
        {**annotation, "image_id": k + 1}
        for k, listed in enumerate(truth.annotations)
        for annotation in listed
    ]
    images = _image_entries(geometry.frame_sizes)
    return BoxTally(match(images, annotations, truth.categories, found))


def labels_of(answers: Ranked, frames: FrameSet) -> ClassTruth:
    """A classifier's answers on the frames, taken for right."""
    return ClassTruth.single(frames, (int(row[0]) for row in answers))


def boxes_of(
    detections: Detections, geometry: Geometry, num_classes: int, frames: FrameSet
) -> BoxTruth | None:
    """A detector's confident detections on the frames, taken for right.

    None if it is confident of nothing on these frames: then nothing can be said.
    """
    ids = range(1, num_classes + 1)
    found: list[list[dict[str, Any]]] = [[] for _ in geometry.frame_sizes]
    for result in _as_results(detections, geometry, ids):
        if result["score"] >= CONFIDENT:
            found[result["image_id"] - 1].append({**result, "iscrowd": 0})
    if not any(found):
        return None
    names = tuple({"id": i, "name": str(i)} for i in ids)
    return BoxTruth(frames, tuple(map(tuple, found)), names)


def _image_entries(sizes: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"id": k + 1, "height": h, "width": w} for k, (h, w) in enumerate(sizes)]


def _as_results(
    detections: Detections, geometry: Geometry, ids: Sequence[int | None]
) -> list[dict[str, Any]]:
    """What pycocotools takes; `ids` are the classes' categories, and what has none is dropped."""
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
