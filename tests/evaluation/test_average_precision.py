"""Average precision of drawn frames is what pycocotools says of frames listed so often."""

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

from search.evaluation.average_precision import match
from search.evaluation.per_frame import BoxTally

FRAMES, CATEGORIES = 9, ("car", "van", "crowds only", "never seen")
Entries = list[dict[str, Any]]
EVERY = pytest.mark.parametrize("seed", range(8))


@dataclass(frozen=True)
class Labelled:
    """Boxes and detections of some frames, by frame."""

    boxes: Sequence[Entries]
    detections: Sequence[Entries]

    def drawn(self, frames: Sequence[int]) -> tuple[Entries, Entries, Entries, Entries]:
        """As pycocotools takes them; a frame that is named twice is there twice."""
        images = [{"id": k + 1, "height": 100, "width": 100} for k in range(len(frames))]
        boxes, detections = (
            [{**entry, "image_id": k + 1} for k, at in enumerate(frames) for entry in listed[at]]
            for listed in (self.boxes, self.detections)
        )
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(CATEGORIES)]
        return images, boxes, categories, detections

    @property
    def tally(self) -> BoxTally:
        return BoxTally(match(*self.drawn(range(len(self.boxes)))))


def box(rng: np.random.Generator) -> list[float]:
    x, y, w, h = (float(rng.uniform(*span)) for span in ((0, 60), (0, 60), (15, 40), (15, 40)))
    return [x, y, w, h]


def street(seed: int) -> Labelled:
    """Frames with all that makes a difference to COCO: crowds, crowded frames, equal scores.

    Even seeds have scores of one digit, so that a frame has several detections of one score and
    frames have detections of the same; odd ones have scores that all differ.
    """
    rng = np.random.default_rng(seed)
    boxes: list[Entries] = []
    detections: list[Entries] = []
    for k in range(FRAMES):
        there: Entries = []
        for _ in range(int(rng.integers(0, 5))):
            category = int(rng.integers(1, 4))
            crowd = int(category == 3 or rng.random() < 0.15)
            there.append(entry(box(rng), category, iscrowd=crowd))
        found: Entries = []
        for known in there * 2:
            jittered = [float(v) for v in np.add(known["bbox"], rng.normal(scale=3, size=4))]
            found.append(entry(jittered, known["category_id"], score=float(rng.uniform(0.3, 1))))
        for _ in range(130 if k == 4 else 6):  # COCO looks at the best 100 of a frame
            found.append(entry(box(rng), int(rng.integers(1, 4)), score=float(rng.random())))
        if k == 4:
            found = [{**f, "category_id": 1} for f in found]
        if seed % 2 == 0:
            found = [{**f, "score": round(f["score"], 1)} for f in found]
        boxes.append(there)
        detections.append([] if k == 6 else found)
    return Labelled(boxes, detections)


def entry(bbox: list[float], category: int, **more: Any) -> dict[str, Any]:
    return {"bbox": bbox, "category_id": category, "area": bbox[2] * bbox[3], **more}


def by_pycocotools(
    images: Entries, boxes: Entries, categories: Entries, detections: Entries
) -> dict[str, float]:
    """The slow twin: pycocotools alone, with its own accumulation; NaN where it has -1."""

    def index(listed: Entries) -> COCO:
        known = COCO()
        annotations = [{**one, "id": k + 1} for k, one in enumerate(listed)]
        known.dataset = {"images": images, "annotations": annotations, "categories": categories}
        known.createIndex()
        return known

    with contextlib.redirect_stdout(io.StringIO()):
        found = COCOeval(index(boxes), index(detections), "bbox")
        found.evaluate()
        found.accumulate()
        found.summarize()
    precision = found.eval["precision"][:, :, :, 0, -1]
    scores = {"map": found.stats[0], "ap50": found.stats[1]}
    for k, name in enumerate(CATEGORIES):
        scores[f"ap_{name}"] = precision[:, :, k].mean()
    return {name: np.nan if value == -1 else float(value) for name, value in scores.items()}


def scores_of(tally: BoxTally, counts: Sequence[int]) -> dict[str, float]:
    drawn = np.array([counts], dtype=np.float64)
    return {name: float(value) for name, (value,) in tally.resampled(drawn).items()}


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    return one == pytest.approx(other, abs=1e-12, nan_ok=True)


@EVERY
def test_of_all_frames_it_is_what_pycocotools_accumulates(seed: int) -> None:
    known = street(seed)
    wanted = by_pycocotools(*known.drawn(range(FRAMES)))
    assert same(scores_of(known.tally, [1] * FRAMES), wanted)
    assert 0.01 < wanted["map"] < 0.99 and np.isnan(wanted["ap_never seen"])
    defined = {name: value for name, value in wanted.items() if not np.isnan(value)}
    assert same(known.tally.scores, defined)


@EVERY
def test_of_drawn_frames_it_is_what_pycocotools_says_of_each_as_often_as_drawn(seed: int) -> None:
    known, rng = street(seed), np.random.default_rng([seed, 1])
    tally = known.tally
    counts = [np.bincount(rng.integers(FRAMES, size=FRAMES), minlength=FRAMES) for _ in range(12)]
    together = tally.resampled(np.array(counts, dtype=np.float64))
    values = set()
    for k, drawn in enumerate(counts):
        wanted = by_pycocotools(*known.drawn(np.repeat(np.arange(FRAMES), drawn).tolist()))
        assert same({name: float(v[k]) for name, v in together.items()}, wanted)
        assert same(
            scores_of(tally, drawn.tolist()), wanted
        )  # the other draws beside it play no part
        values.add(wanted["map"])
    assert len(values) > 6


@EVERY
def test_a_single_frame_drawn_often_is_what_pycocotools_says_of_its_copies(seed: int) -> None:
    known = street(seed)
    tally = known.tally
    for at in range(FRAMES):
        for often in (1, 3):
            drawn = [often if k == at else 0 for k in range(FRAMES)]
            wanted = by_pycocotools(*known.drawn([at] * often))
            assert same(scores_of(tally, drawn), wanted)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_the_order_of_frames_plays_no_part_where_no_scores_are_equal(seed: int) -> None:
    known, rng = street(seed), np.random.default_rng([seed, 2])
    order, drawn = rng.permutation(FRAMES), rng.integers(0, 4, FRAMES)
    turned = Labelled([known.boxes[k] for k in order], [known.detections[k] for k in order])
    assert same(
        scores_of(known.tally, drawn.tolist()), scores_of(turned.tally, drawn[order].tolist())
    )


def test_a_frame_that_is_drawn_more_often_than_all_others_outweighs_them() -> None:
    right, wrong = entry([0.0, 0, 20, 20], 1, score=0.5), entry([50.0, 50, 9, 9], 1, score=0.9)
    boxes = [[entry([0.0, 0, 20, 20], 1, iscrowd=0)]] * 2
    tally = Labelled(boxes, [[right], [wrong]]).tally
    # of n right ones after m wrong ones: the greatest precision is n / (n + m), up to recall
    for n, m in ((1, 1), (3, 1), (1, 3)):
        recalls = np.floor(100 * n / (n + m) + 1e-9) + 1
        assert scores_of(tally, [n, m])["map"] == pytest.approx(n / (n + m) * recalls / 101)


def test_without_detections_it_is_zero_and_without_boxes_it_is_not_defined() -> None:
    boxes: list[Entries] = [[entry([0.0, 0, 20, 20], 1, iscrowd=0)], []]
    nothing = Labelled(boxes, [[], []]).tally
    assert nothing.scores == {"map": 0, "ap50": 0, "ap_car": 0}
    assert np.isnan(scores_of(nothing, [0, 2])["map"])
    empty = Labelled([[], []], [[entry([0.0, 0, 9, 9], 1, score=0.5)], []]).tally
    assert empty.scores == {"map": -1}  # as COCO has it
