"""COCO's average precision for any draw of the frames, after one matching by pycocotools.

Detections are matched to boxes frame by frame, so drawing a frame twice or never changes no match,
only how often it counts. This module accumulates the matches of many draws together, as
COCOeval.accumulate does for one; pycocotools itself would repeat the matching for every draw.

Source: Lin et al. 2014, "Microsoft COCO", and the pycocotools implementation.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from search.evaluation.bootstrap import DrawCounts
from search.utils.arrays import FloatMatrix, FloatVector

CocoRecord = Mapping[str, Any]
"""An image, a box, a category or a detection, in the format of COCO files."""

_PARAMS = Params(iouType="bbox")
IOU_THRESHOLD_COUNT = len(_PARAMS.iouThrs)
"""IoU 0.50, 0.55 ... 0.95."""
RECALL_LEVELS: FloatVector = _PARAMS.recThrs
"""0.00, 0.01 ... 1.00: where the precision is read."""


@dataclass(frozen=True, eq=False)
class CategoryMatches:
    """One category's detections by falling score, and whether each is matched to a box."""

    box_counts: FloatVector
    """(frames,): boxes to detect; crowds do not count."""
    frames: NDArray[np.intp]
    """(detections,): index of each detection's frame; equal scores are in frame order."""
    scores: FloatVector
    """(detections,)"""
    matched: NDArray[np.bool_]
    """(thresholds, detections): the detection is matched to a box."""
    counted: NDArray[np.bool_]
    """(thresholds, detections): the detection is right or wrong; one matched to a crowd is not."""

    def average_precision(self, counts: DrawCounts) -> FloatMatrix:
        """Return AP as (draws, thresholds); NaN in a draw whose frames have no box.

        `counts` is (draws, frames). A frame drawn twice is scored as if it were listed twice,
        which settles the order of equal scores.
        """
        boxes = counts @ self.box_counts
        order, drawn = self._ordered(counts)
        matched, counted = self.matched[:, order], self.counted[:, order]
        values = np.empty((len(counts), IOU_THRESHOLD_COUNT))
        for k in range(IOU_THRESHOLD_COUNT):
            if k == 0 or (counted[k] != counted[k - 1]).any():
                detections = (drawn * counted[k]).cumsum(1)
            at = matched[k].nonzero()[0]
            values[:, k] = _precision_area(drawn[:, at].cumsum(1), detections[:, at], boxes)
        return values

    def _ordered(self, counts: DrawCounts) -> tuple[NDArray[np.intp], FloatMatrix]:
        """Return the accumulation order of the detections, and their (draws, places) counts.

        Usually a detection has one place and counts there as often as its frame is drawn. Several
        detections of one frame with equal scores alternate instead, copy by copy of the frame, so
        each has as many places as its frame has copies.
        """
        new = (np.diff(self.scores) != 0) | (np.diff(self.frames) != 0)
        group = np.concatenate([[0], new.cumsum()])[: len(self.frames)]
        tied = (np.bincount(group) > 1)[group]
        copies = np.where(tied, int(counts.max()), 1)
        order = np.repeat(np.arange(len(group)), copies)
        copy = np.arange(len(order)) - np.repeat(copies.cumsum() - copies, copies)
        by_copy = np.lexsort((order, copy, group[order]))
        order, copy = order[by_copy], copy[by_copy]
        drawn = counts[:, self.frames[order]]
        repeated = tied[order]
        drawn[:, repeated] = drawn[:, repeated] > copy[repeated]
        return order, drawn


def match_detections(
    images: Sequence[CocoRecord],
    boxes: Sequence[CocoRecord],
    categories: Sequence[CocoRecord],
    detections: Sequence[CocoRecord],
) -> list[tuple[str, CategoryMatches]]:
    """Match detections to boxes with pycocotools; return each category's name and matches.

    Categories come by rising id. `images` must be ordered by id; boxes and detections need no id.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on stdout
        evaluation = COCOeval(
            _indexed(images, boxes, categories), _indexed(images, detections, categories), "bbox"
        )
        evaluation.params.areaRng = evaluation.params.areaRng[:1]  # boxes of any size
        evaluation.evaluate()
    names = {category["id"]: str(category["name"]) for category in categories}
    evaluated, count = evaluation.evalImgs, len(images)
    return [
        (names[category], _category_matches(evaluated[k * count : (k + 1) * count]))
        for k, category in enumerate(evaluation.params.catIds)
    ]


def _indexed(
    images: Sequence[CocoRecord],
    annotations: Sequence[CocoRecord],
    categories: Sequence[CocoRecord],
) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": [{**record, "id": k + 1} for k, record in enumerate(annotations)],
        "categories": categories,
    }
    coco.createIndex()
    return coco


def _category_matches(evaluated: Sequence[Mapping[str, Any] | None]) -> CategoryMatches:
    """Build one category's matches from COCOeval.evaluate's record per frame; None if empty."""
    nothing = np.zeros((IOU_THRESHOLD_COUNT, 0))
    scores = [np.zeros(0), *(frame["dtScores"] for frame in evaluated if frame)]
    matched = [nothing, *(frame["dtMatches"] for frame in evaluated if frame)]
    ignored = [nothing, *(frame["dtIgnore"] for frame in evaluated if frame)]
    frames = np.repeat(
        np.arange(len(evaluated)), [len(f["dtScores"]) if f else 0 for f in evaluated]
    )
    order = np.argsort(-np.concatenate(scores), kind="stable")
    counted = np.concatenate(ignored, axis=1)[:, order] == 0
    boxes = [np.sum(frame["gtIgnore"] == 0) if frame else 0 for frame in evaluated]
    return CategoryMatches(
        box_counts=np.array(boxes, dtype=float),
        frames=frames[order],
        scores=np.concatenate(scores)[order],
        matched=(np.concatenate(matched, axis=1)[:, order] > 0) & counted,
        counted=counted,
    )


def _precision_area(
    correct: FloatMatrix, detections: FloatMatrix, boxes: FloatVector
) -> FloatVector:
    """Return, per draw, the mean over `RECALL_LEVELS` of the best precision at or beyond each.

    `correct` and `detections` are (draws, places), with one place per correct detection: how many
    detections up to it are correct, and how many are correct or wrong. Between these places the
    precision only falls. `boxes` is (draws,).
    """
    recall = correct / np.maximum(boxes, 1)[:, None]
    precision = correct / (detections + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    levels = np.searchsorted(RECALL_LEVELS, recall, side="right")
    area = (best * np.diff(levels, prepend=0, axis=1)).sum(1) / len(RECALL_LEVELS)
    return np.asarray(np.where(boxes > 0, area, np.nan))
