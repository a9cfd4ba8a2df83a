"""Average precision of drawn frames equals pycocotools on frames listed as often as drawn."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from search.evaluation.average_precision import match_detections
from search.evaluation.tasks.detection import BoxFrameScores

FRAMES, CATEGORIES = 9, ("car", "van", "crowds only", "never seen")
Entries = list[dict[str, Any]]
EVERY_SEED = pytest.mark.parametrize("seed", range(8))


@dataclass(frozen=True)
class LabelledFrames:
    """Boxes and detections of some frames, by frame."""

    boxes: Sequence[Entries]
    detections: Sequence[Entries]

    def resampled(self, frames: Sequence[int]) -> tuple[Entries, Entries, Entries, Entries]:
        """Return these frames as pycocotools reads them; a frame may be listed twice."""
        images = [{"id": k + 1, "height": 100, "width": 100} for k in range(len(frames))]
        boxes, detections = (
            [{**entry, "image_id": k + 1} for k, at in enumerate(frames) for entry in listed[at]]
            for listed in (self.boxes, self.detections)
        )
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(CATEGORIES)]
        return images, boxes, categories, detections

    @property
    def frame_scores(self) -> BoxFrameScores:
        return BoxFrameScores(match_detections(*self.resampled(range(len(self.boxes)))))


def box(rng: np.random.Generator) -> list[float]:
    x, y, w, h = (float(rng.uniform(*span)) for span in ((0, 60), (0, 60), (15, 40), (15, 40)))
    return [x, y, w, h]


def street(seed: int) -> LabelledFrames:
    """Build frames with all special cases of COCO: crowds, crowded frames, equal scores.

    Even seeds round scores to one digit, so that detections have equal scores within a frame and
    between frames; with odd seeds all scores differ.
    """
    rng = np.random.default_rng(seed)
    boxes: list[Entries] = []
    detections: list[Entries] = []
    for k in range(FRAMES):
        boxes_here: Entries = []
        for _ in range(int(rng.integers(0, 5))):
            category = int(rng.integers(1, 4))
            crowd = int(category == 3 or rng.random() < 0.15)
            boxes_here.append(entry(box(rng), category, iscrowd=crowd))
        detections_here: Entries = []
        for labelled in boxes_here * 2:
            jittered = [float(v) for v in np.add(labelled["bbox"], rng.normal(scale=3, size=4))]
            detections_here.append(
                entry(jittered, labelled["category_id"], score=float(rng.uniform(0.3, 1)))
            )
        for _ in range(130 if k == 4 else 6):  # COCO uses the best 100 of a frame
            detections_here.append(
                entry(box(rng), int(rng.integers(1, 4)), score=float(rng.random()))
            )
        if k == 4:
            detections_here = [{**f, "category_id": 1} for f in detections_here]
        if seed % 2 == 0:
            detections_here = [{**f, "score": round(f["score"], 1)} for f in detections_here]
        boxes.append(boxes_here)
        detections.append([] if k == 6 else detections_here)
    return LabelledFrames(boxes, detections)


def entry(bbox: list[float], category: int, **more: Any) -> dict[str, Any]:
    return {"bbox": bbox, "category_id": category, "area": bbox[2] * bbox[3], **more}


def by_pycocotools(
    images: Entries, boxes: Entries, categories: Entries, detections: Entries
) -> dict[str, float]:
    """Return the scores of pycocotools with its own accumulation; NaN where it has -1."""

    def index(listed: Entries) -> COCO:
        coco = COCO()
        annotations = [{**one, "id": k + 1} for k, one in enumerate(listed)]
        coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(boxes), index(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    scores = {"map": evaluation.stats[0], "ap50": evaluation.stats[1]}
    for k, name in enumerate(CATEGORIES):
        scores[f"ap_{name}"] = precision[:, :, k].mean()
    return {name: np.nan if value == -1 else float(value) for name, value in scores.items()}


def scores_of(frame_scores: BoxFrameScores, counts: Sequence[int]) -> dict[str, float]:
    draws = np.array([counts], dtype=np.float64)
    return {name: float(value) for name, (value,) in frame_scores.resample(draws).items()}


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    return one == pytest.approx(other, abs=1e-12, nan_ok=True)


@EVERY_SEED
def test_all_frames_score_as_in_pycocotools(seed: int) -> None:
    frames = street(seed)
    expected = by_pycocotools(*frames.resampled(range(FRAMES)))
    assert same(scores_of(frames.frame_scores, [1] * FRAMES), expected)
    assert 0.01 < expected["map"] < 0.99 and np.isnan(expected["ap_never seen"])
    defined = {name: value for name, value in expected.items() if not np.isnan(value)}
    assert same(frames.frame_scores.scores, defined)


@EVERY_SEED
def test_drawn_frames_score_as_in_pycocotools_with_each_listed_as_often_as_drawn(
    seed: int,
) -> None:
    frames, rng = street(seed), np.random.default_rng([seed, 1])
    frame_scores = frames.frame_scores
    counts = [np.bincount(rng.integers(FRAMES, size=FRAMES), minlength=FRAMES) for _ in range(12)]
    together = frame_scores.resample(np.array(counts, dtype=np.float64))
    values = set()
    for k, frame_counts in enumerate(counts):
        expected = by_pycocotools(
            *frames.resampled(np.repeat(np.arange(FRAMES), frame_counts).tolist())
        )
        assert same({name: float(v[k]) for name, v in together.items()}, expected)
        # a draw does not depend on the draws scored with it
        assert same(scores_of(frame_scores, frame_counts.tolist()), expected)
        values.add(expected["map"])
    assert len(values) > 6


@EVERY_SEED
def test_one_frame_drawn_repeatedly_scores_as_its_copies_in_pycocotools(seed: int) -> None:
    frames = street(seed)
    frame_scores = frames.frame_scores
    for index in range(FRAMES):
        for times in (1, 3):
            counts = [times if k == index else 0 for k in range(FRAMES)]
            expected = by_pycocotools(*frames.resampled([index] * times))
            assert same(scores_of(frame_scores, counts), expected)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_the_order_of_frames_does_not_matter_where_all_scores_differ(seed: int) -> None:
    frames, rng = street(seed), np.random.default_rng([seed, 2])
    order, counts = rng.permutation(FRAMES), rng.integers(0, 4, FRAMES)
    permuted = LabelledFrames(
        [frames.boxes[k] for k in order], [frames.detections[k] for k in order]
    )
    assert same(
        scores_of(frames.frame_scores, counts.tolist()),
        scores_of(permuted.frame_scores, counts[order].tolist()),
    )


def test_a_frame_counts_as_often_as_it_is_drawn() -> None:
    right, wrong = entry([0.0, 0, 20, 20], 1, score=0.5), entry([50.0, 50, 9, 9], 1, score=0.9)
    boxes = [[entry([0.0, 0, 20, 20], 1, iscrowd=0)]] * 2
    frame_scores = LabelledFrames(boxes, [[right], [wrong]]).frame_scores
    # With n right after m wrong detections, precision is at most n / (n + m), up to recall
    for n, m in ((1, 1), (3, 1), (1, 3)):
        recalls = np.floor(100 * n / (n + m) + 1e-9) + 1
        assert scores_of(frame_scores, [n, m])["map"] == pytest.approx(n / (n + m) * recalls / 101)


def test_the_score_is_0_without_detections_and_undefined_without_boxes() -> None:
    boxes: list[Entries] = [[entry([0.0, 0, 20, 20], 1, iscrowd=0)], []]
    nothing = LabelledFrames(boxes, [[], []]).frame_scores
    assert nothing.scores == {"map": 0, "ap50": 0, "ap_car": 0}
    assert np.isnan(scores_of(nothing, [0, 2])["map"])
    empty = LabelledFrames([[], []], [[entry([0.0, 0, 9, 9], 1, score=0.5)], []]).frame_scores
    assert empty.scores == {"map": -1}  # as in COCO
