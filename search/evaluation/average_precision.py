"""COCO's average precision of any draw of the frames, after one matching by pycocotools.

Detections are matched to boxes frame by frame, so a frame that is drawn twice, or not at all,
changes no match, only how often it counts. What COCOeval.accumulate does with the matches is done
here for many draws at once: pycocotools itself would take as long for each as for the first.
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

from search.evaluation.bootstrap import Counts, Vector

Matrix = NDArray[np.float64]
Entry = Mapping[str, Any]
"""An image, a box, a category or a detection as COCO's files have it."""

_PARAMS = Params(iouType="bbox")
THRESHOLDS = len(_PARAMS.iouThrs)
"""IoU 0.50, 0.55 ... 0.95."""
RECALLS: Vector = _PARAMS.recThrs
"""0.00, 0.01 ... 1.00: where the precision is read."""


@dataclass(frozen=True, eq=False)
class Matches:
    """One category's detections by falling score, and which of them found a box."""

    boxes: Vector
    """(frames,): how many there are to be found; a crowd is none."""
    frame: NDArray[np.intp]
    """(detections,): where each was made; of equal scores the earlier frame's is first."""
    score: Vector
    """(detections,)"""
    found: NDArray[np.bool_]
    """(thresholds, detections): it is matched to a box."""
    counted: NDArray[np.bool_]
    """(thresholds, detections): it is right or wrong; what is matched to a crowd is neither."""

    def average_precision(self, counts: Counts) -> Matrix:
        """(draws, thresholds); NaN where no frame drawn has a box.

        `counts` is (draws, frames). A frame drawn twice stands beside itself, as if it had been
        listed twice: this settles the order of equal scores.
        """
        boxes = counts @ self.boxes
        order, drawn = self._in_turn(counts)
        found, counted = self.found[:, order], self.counted[:, order]
        values = np.empty((len(counts), THRESHOLDS))
        for k in range(THRESHOLDS):
            if k == 0 or (counted[k] != counted[k - 1]).any():
                seen = (drawn * counted[k]).cumsum(1)
            at = found[k].nonzero()[0]
            values[:, k] = _area(drawn[:, at].cumsum(1), seen[:, at], boxes)
        return values

    def _in_turn(self, counts: Counts) -> tuple[NDArray[np.intp], Matrix]:
        """The detections in the order they are gone through, and how often each counts there.

        Usually each counts at one place as often as its frame was drawn. Several of one frame
        and one score all come once, then all again: so they are there once for each drawing.
        """
        new = (np.diff(self.score) != 0) | (np.diff(self.frame) != 0)
        group = np.concatenate([[0], new.cumsum()])[: len(self.frame)]
        tied = (np.bincount(group) > 1)[group]
        times = np.where(tied, int(counts.max()), 1)
        order = np.repeat(np.arange(len(group)), times)
        turn = np.arange(len(order)) - np.repeat(times.cumsum() - times, times)
        by_turn = np.lexsort((order, turn, group[order]))
        order, turn = order[by_turn], turn[by_turn]
        drawn = counts[:, self.frame[order]]
        again = tied[order]
        drawn[:, again] = drawn[:, again] > turn[again]
        return order, drawn


def match(
    images: Sequence[Entry],
    boxes: Sequence[Entry],
    categories: Sequence[Entry],
    detections: Sequence[Entry],
) -> list[tuple[str, Matches]]:
    """The matches that pycocotools finds, of each category with its name, by rising id.

    The images come by rising id; boxes and detections need none.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on stdout
        evaluation = COCOeval(
            _indexed(images, boxes, categories), _indexed(images, detections, categories), "bbox"
        )
        evaluation.params.areaRng = evaluation.params.areaRng[:1]  # of any size
        evaluation.evaluate()
    names = {category["id"]: str(category["name"]) for category in categories}
    found, count = evaluation.evalImgs, len(images)
    return [
        (names[category], _matches(found[k * count : (k + 1) * count]))
        for k, category in enumerate(evaluation.params.catIds)
    ]


def _indexed(
    images: Sequence[Entry], listed: Sequence[Entry], categories: Sequence[Entry]
) -> COCO:
    known = COCO()
    known.dataset = {
        "images": images,
        "annotations": [{**entry, "id": k + 1} for k, entry in enumerate(listed)],
        "categories": categories,
    }
    known.createIndex()
    return known


def _matches(found: Sequence[Mapping[str, Any] | None]) -> Matches:
    """From what COCOeval.evaluate has found on each frame; None where nothing is."""
    nothing = np.zeros((THRESHOLDS, 0))
    score = [np.zeros(0), *(entry["dtScores"] for entry in found if entry)]
    matched = [nothing, *(entry["dtMatches"] for entry in found if entry)]
    ignored = [nothing, *(entry["dtIgnore"] for entry in found if entry)]
    frame = np.repeat(np.arange(len(found)), [len(e["dtScores"]) if e else 0 for e in found])
    order = np.argsort(-np.concatenate(score), kind="stable")
    counted = np.concatenate(ignored, axis=1)[:, order] == 0
    return Matches(
        boxes=np.array([np.sum(e["gtIgnore"] == 0) if e else 0 for e in found], dtype=float),
        frame=frame[order],
        score=np.concatenate(score)[order],
        found=(np.concatenate(matched, axis=1)[:, order] > 0) & counted,
        counted=counted,
    )


def _area(right: Matrix, seen: Matrix, boxes: Vector) -> Vector:
    """(draws,): the greatest precision at each of the `RECALLS` or beyond, averaged over them.

    `right` and `seen` are (draws, places): of the detections up to each right one, how many are
    right, and how many are right or wrong. Elsewhere precision only falls. `boxes` is (draws,).
    """
    recall = right / np.maximum(boxes, 1)[:, None]
    precision = right / (seen + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, recall, side="right")
    area = (best * np.diff(reached, prepend=0, axis=1)).sum(1) / len(RECALLS)
    return np.asarray(np.where(boxes > 0, area, np.nan))
