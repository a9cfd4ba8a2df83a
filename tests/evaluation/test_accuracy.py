"""Accuracy by hand, by construction, and against pycocotools run directly on the same files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny import STREET

from search.data.frames import RenderedScenes
from search.data.ground_truth import BoxTruth, scenes_truth
from search.evaluation.accuracy import (
    CONFIDENT,
    Geometry,
    boxes_of,
    coco_map,
    labels_of,
    ranked,
    top_k,
)
from spaces.inputs import InputSpec

SPEC = InputSpec(128, 128, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "squash")
LETTERBOX = InputSpec(128, 128, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "letterbox")
COUNT = 10
GEOMETRY = Geometry([(72, 96)] * COUNT, SPEC)


def test_top_1_and_top_5_by_hand() -> None:
    logits = np.array(
        [
            [9, 8, 7, 6, 5, 4, 3],  # label 0: first
            [9, 8, 7, 6, 5, 4, 3],  # label 4: among five
            [9, 8, 7, 6, 5, 4, 3],  # label 5: sixth
            [1, 2, 3, 4, 5, 6, 7],  # label 6: first
        ],
        dtype=np.float32,
    )
    assert top_k(ranked(logits), [{0}, {4}, {5}, {6}]).scores == {"top1": 0.5, "top5": 0.75}


def test_of_several_right_classes_any_is_a_hit() -> None:
    logits = np.tile(np.array([9, 8, 7, 6, 5, 4, 3], dtype=np.float32), (4, 1))
    right = [{0, 6}, {6, 0}, {5, 4}, {5, 6}]  # first, first, among five, beyond
    assert top_k(ranked(logits), right).scores == {"top1": 0.5, "top5": 0.75}


def test_of_equal_logits_the_first_class_is_the_answer() -> None:
    equal = np.zeros((2, 7), dtype=np.float32)
    assert top_k(ranked(equal), [{0}, {1}]).scores == {"top1": 0.5, "top5": 1.0}


def test_fewer_than_five_classes_are_all_among_the_first_five() -> None:
    two = np.array([[0.0, 1.0]], dtype=np.float32)
    assert top_k(ranked(two), [{0}]).scores == {"top1": 0.0, "top5": 1.0}


def test_agreement_is_the_share_of_equal_answers() -> None:
    logits = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    right = labels_of(ranked(logits), RenderedScenes(STREET, 8)).labels
    assert top_k(ranked(logits), right).scores["top1"] == 1
    turned = logits.copy()
    turned[:3] *= -1
    assert top_k(ranked(turned), right).scores["top1"] == 5 / 8


@pytest.fixture(scope="module")
def truth() -> BoxTruth:
    known = scenes_truth(STREET, COUNT, "detection")
    assert isinstance(known, BoxTruth) and sum(map(len, known.annotations)) > 8
    return known


def rows(truth: BoxTruth, spec: InputSpec, seed: int | None = None) -> NDArray[np.float32]:
    """The truth as a detector's answer in input pixels; with a seed, jittered, some missed."""
    rng = np.random.default_rng(seed)
    answer = np.zeros((COUNT, 20, 6), dtype=np.float32)
    scale = np.array([spec.width / 96, spec.height / 72] * 2)
    if spec.fit == "letterbox":
        scale = np.full(4, spec.width / 96)
    for k, listed in enumerate(truth.annotations):
        for n, annotation in enumerate(listed):
            x, y, w, h = annotation["bbox"]
            box, score, label = np.array([x, y, x + w, y + h]), 0.9, annotation["category_id"]
            if seed is not None:
                box = np.clip(box + rng.normal(scale=2, size=4), 0, [96, 72, 96, 72])
                score = rng.uniform(0.1, 1.0)
                label = label if rng.random() < 0.7 else rng.integers(1, 7)
            answer[k, n] = [*(box * scale), score, label]
    return answer


def test_perfect_boxes_score_one_and_none_score_zero(truth: BoxTruth) -> None:
    for spec in (SPEC, LETTERBOX):
        perfect = coco_map(rows(truth, spec), Geometry([(72, 96)] * COUNT, spec), truth, 6).scores
        assert perfect["map"] == pytest.approx(1, abs=1e-6)
        assert perfect["ap50"] == pytest.approx(1, abs=1e-6)
        assert all(value == pytest.approx(1, abs=1e-6) for value in perfect.values())
    nothing = coco_map(np.zeros((COUNT, 20, 6), dtype=np.float32), GEOMETRY, truth, 6).scores
    assert nothing["map"] == nothing["ap50"] == 0


def test_the_letterbox_is_not_the_squash(truth: BoxTruth) -> None:
    wrong = coco_map(rows(truth, SPEC), Geometry([(72, 96)] * COUNT, LETTERBOX), truth, 6).scores
    assert wrong["map"] < 0.8


def direct(truth: BoxTruth, answer: NDArray[np.float32], folder: Path) -> Any:
    """pycocotools on files, as its documentation has it."""
    labels = {
        "images": [{"id": k, "height": 72, "width": 96} for k in range(COUNT)],
        "categories": list(truth.categories),
        "annotations": [],
    }
    results = []
    for k in range(COUNT):
        for annotation in truth.annotations[k]:
            entry = {**annotation, "image_id": k, "id": len(labels["annotations"]) + 1}
            labels["annotations"].append(entry)
        for x1, y1, x2, y2, score, label in answer[k].astype(float):
            if score > 0:
                box = np.array([x1, y1, x2 - x1, y2 - y1]) * [0.75, 0.5625, 0.75, 0.5625]
                results.append({"image_id": k, "category_id": int(label), "bbox": box.tolist(),
                                "score": score})  # fmt: skip
    for name, data in (("labels.json", labels), ("results.json", results)):
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(folder / "labels.json"))
        found = COCOeval(known, known.loadRes(str(folder / "results.json")), "bbox")
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_map_is_what_pycocotools_says_of_the_same_files(
    truth: BoxTruth, tmp_path: Path, seed: int
) -> None:
    answer = rows(truth, SPEC, seed)
    scores = coco_map(answer, GEOMETRY, truth, 6).scores
    evaluated = direct(truth, answer, tmp_path)
    assert 0.02 < scores["map"] < 0.98
    assert scores["map"] == pytest.approx(evaluated.stats[0], abs=1e-6)
    assert scores["ap50"] == pytest.approx(evaluated.stats[1], abs=1e-6)
    precision = evaluated.eval["precision"][:, :, :, 0, 2]
    for k, category in enumerate(truth.categories):
        known = precision[:, :, k][precision[:, :, k] > -1]
        if known.size:
            wanted = pytest.approx(known.mean(), abs=1e-6)
            assert scores[f"ap_{category['name']}"] == wanted


def test_category_ids_with_gaps_are_mapped_to_the_classes() -> None:
    frames = RenderedScenes(STREET, 1)
    annotation = {"bbox": [8.0, 8.0, 40.0, 30.0], "category_id": 17, "area": 1200.0, "iscrowd": 0}
    truth = BoxTruth(frames, ((annotation,),), ({"id": 5, "name": "x"}, {"id": 17, "name": "y"}))
    geometry = Geometry([(128, 128)], SPEC)
    for label, wanted in ((2, 1.0), (1, 0.0)):
        answer = np.array([[[8, 8, 48, 38, 0.9, label]]], dtype=np.float32)
        scores = coco_map(answer, geometry, truth, 2).scores
        assert scores["map"] == pytest.approx(wanted, abs=1e-6)
    for classes, label in ((17, 17), (90, 17)):
        answer = np.array([[[8, 8, 48, 38, 0.9, label]]], dtype=np.float32)
        assert coco_map(answer, geometry, truth, classes).scores["map"] == pytest.approx(
            1, abs=1e-6
        )


def test_a_crowd_is_neither_a_hit_nor_a_miss() -> None:
    frames = RenderedScenes(STREET, 1)
    one = {"bbox": [8.0, 8.0, 40.0, 30.0], "category_id": 1, "area": 1200.0, "iscrowd": 0}
    crowd = {"bbox": [60.0, 60.0, 60.0, 60.0], "category_id": 1, "area": 3600.0, "iscrowd": 1}
    truth = BoxTruth(frames, ((one, crowd),), ({"id": 1, "name": "x"},))
    answer = np.array([[[8, 8, 48, 38, 0.5, 1], [62, 62, 90, 90, 0.9, 1]]], dtype=np.float32)
    scores = coco_map(answer, Geometry([(128, 128)], SPEC), truth, 1).scores
    assert scores["map"] == pytest.approx(1, abs=1e-6)


def test_detections_agree_wholly_with_themselves(truth: BoxTruth) -> None:
    answer = rows(truth, SPEC)
    right = boxes_of(answer, GEOMETRY, 6, truth.frames)
    assert right is not None
    assert coco_map(answer, GEOMETRY, right, 6).scores["map"] == pytest.approx(1, abs=1e-6)
    assert 0 < coco_map(rows(truth, SPEC, 1), GEOMETRY, right, 6).scores["map"] < 0.98
    assert coco_map(np.zeros_like(answer), GEOMETRY, right, 6).scores["map"] == 0


def test_an_original_that_is_confident_of_nothing_says_nothing(truth: BoxTruth) -> None:
    answer = rows(truth, SPEC)
    doubtful = answer.copy()
    doubtful[..., 4] = np.where(answer[..., 4] > 0, CONFIDENT - 0.01, 0)
    assert boxes_of(doubtful, GEOMETRY, 6, truth.frames) is None
