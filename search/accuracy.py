"""Answers against ground truth: top-1 and top-5, COCO mAP; and against the original's answers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from search.truth import BoxTruth
from spaces.inputs import InputSpec, boxes_to_frame

Ranked = NDArray[np.int64]
"""(frames, 5) classes, the one with the greatest logit first; fewer if there are fewer classes."""
Detections = NDArray[np.float32]
"""(frames, n, 6) as a detector's head gives them."""
Scores = dict[str, float]

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


def top_k(answers: Ranked, labels: Sequence[int]) -> Scores:
    """Share of frames whose label is the first, or among the first five, of the classes."""
    hits = answers == np.asarray(labels)[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}


def coco_map(
    detections: Detections, geometry: Geometry, truth: BoxTruth, num_classes: int
) -> Scores:
    """COCO's mAP over IoU 0.50 to 0.95, AP at 0.50, and AP per category, by pycocotools."""
    ids = truth.category_ids(num_classes)
    found = _as_results(detections, geometry, ids)
    images = _image_entries(geometry.frame_sizes)
    annotations = [
        {**annotation, "image_id": k + 1}
        for k, listed in enumerate(truth.annotations)
        for annotation in listed
    ]
    return _evaluate(images, annotations, list(truth.categories), found)


def agreement(answers: Ranked, original: Ranked) -> float:
    """Share of frames on which two classifiers give the same class."""
    return float((answers[:, 0] == original[:, 0]).mean())


def detection_agreement(
    detections: Detections, original: Detections, geometry: Geometry, num_classes: int
) -> float | None:
    """mAP of the detections with the original's confident ones for truth.

    None if the original is confident of nothing on these frames: then nothing can be said.
    """
    ids = list(range(1, num_classes + 1))
    categories = [{"id": i, "name": str(i)} for i in ids]
    annotations = [
        {
            "image_id": result["image_id"],
            "bbox": result["bbox"],
            "category_id": result["category_id"],
            "area": result["bbox"][2] * result["bbox"][3],
            "iscrowd": 0,
        }
        for result in _as_results(original, geometry, ids)
        if result["score"] >= CONFIDENT
    ]
    if not annotations:
        return None
    images = _image_entries(geometry.frame_sizes)
    return _evaluate(images, annotations, categories, _as_results(detections, geometry, ids))[
        "map"
    ]


def _image_entries(sizes: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"id": k + 1, "height": h, "width": w} for k, (h, w) in enumerate(sizes)]


def _as_results(
    detections: Detections, geometry: Geometry, ids: Sequence[int]
) -> list[dict[str, Any]]:
    results = []
    for k, (rows, size) in enumerate(zip(detections, geometry.frame_sizes, strict=True)):
        rows = rows[rows[:, 4] > 0]
        boxes = boxes_to_frame(rows[:, :4], size, geometry.spec)
        for (x1, y1, x2, y2), (score, label) in zip(boxes, rows[:, 4:], strict=True):
            results.append(
                {
                    "image_id": k + 1,
                    "category_id": ids[int(label) - 1],
                    "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                    "score": float(score),
                }
            )
    return results


def _evaluate(
    images: list[dict[str, int]],
    annotations: list[dict[str, Any]],
    categories: list[Mapping[str, Any]] | list[dict[str, Any]],
    results: list[dict[str, Any]],
) -> Scores:
    names = {int(category["id"]): str(category["name"]) for category in categories}
    if not results:
        return {"map": 0.0, "ap50": 0.0, **{f"ap_{name}": 0.0 for name in names.values()}}
    truth = COCO()
    truth.dataset = {
        "images": images,
        "annotations": [{"id": k + 1, **entry} for k, entry in enumerate(annotations)],
        "categories": categories,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on stdout
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # precision: IoU thresholds x recall x category x area x detections; -1 where undefined
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    scores = {"map": float(evaluation.stats[0]), "ap50": float(evaluation.stats[1])}
    for index, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, index]
        if (values > -1).any():
            scores[f"ap_{names[category]}"] = float(values[values > -1].mean())
    return scores
