"""Accuracy in closed form, by construction, and against pycocotools on the same files."""

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
from search.evaluation.tasks.classification import labels_from_answers, score_classes, top_classes
from search.evaluation.tasks.detection import (
    CONFIDENT_SCORE,
    BoxGeometry,
    boxes_from_answers,
    score_boxes,
)
from spaces.inputs import InputSpec

SPEC = InputSpec(128, 128, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "squash")
LETTERBOX = InputSpec(128, 128, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "letterbox")
COUNT = 10
GEOMETRY = BoxGeometry([(72, 96)] * COUNT, SPEC)


def test_top_1_and_top_5_are_the_shares_of_hits() -> None:
    logits = np.array(
        [
            [9, 8, 7, 6, 5, 4, 3],  # label 0: first
            [9, 8, 7, 6, 5, 4, 3],  # label 4: among five
            [9, 8, 7, 6, 5, 4, 3],  # label 5: sixth
            [1, 2, 3, 4, 5, 6, 7],  # label 6: first
        ],
        dtype=np.float32,
    )
    assert score_classes(top_classes(logits), [{0}, {4}, {5}, {6}]).scores == {
        "top1": 0.5,
        "top5": 0.75,
    }


def test_any_of_several_correct_classes_is_a_hit() -> None:
    logits = np.tile(np.array([9, 8, 7, 6, 5, 4, 3], dtype=np.float32), (4, 1))
    right = [{0, 6}, {6, 0}, {5, 4}, {5, 6}]  # first, first, among five, beyond
    assert score_classes(top_classes(logits), right).scores == {"top1": 0.5, "top5": 0.75}


def test_the_first_class_wins_among_equal_logits() -> None:
    equal = np.zeros((2, 7), dtype=np.float32)
    assert score_classes(top_classes(equal), [{0}, {1}]).scores == {"top1": 0.5, "top5": 1.0}


def test_top_5_is_1_with_fewer_than_five_classes() -> None:
    two = np.array([[0.0, 1.0]], dtype=np.float32)
    assert score_classes(top_classes(two), [{0}]).scores == {"top1": 0.0, "top5": 1.0}


def test_agreement_is_the_share_of_equal_answers() -> None:
    logits = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    right = labels_from_answers(top_classes(logits), RenderedScenes(STREET, 8)).labels
    assert score_classes(top_classes(logits), right).scores["top1"] == 1
    turned = logits.copy()
    turned[:3] *= -1
    assert score_classes(top_classes(turned), right).scores["top1"] == 5 / 8


@pytest.fixture(scope="module")
def truth() -> BoxTruth:
    boxes = scenes_truth(STREET, COUNT, "detection")
    assert isinstance(boxes, BoxTruth) and sum(map(len, boxes.annotations)) > 8
    return boxes


def rows(truth: BoxTruth, spec: InputSpec, seed: int | None = None) -> NDArray[np.float32]:
    """Return the ground truth as detections in input pixels; a seed adds errors."""
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


def test_perfect_boxes_score_1_and_no_boxes_score_0(truth: BoxTruth) -> None:
    for spec in (SPEC, LETTERBOX):
        perfect = score_boxes(
            rows(truth, spec), BoxGeometry([(72, 96)] * COUNT, spec), truth, 6
        ).scores
        assert perfect["map"] == pytest.approx(1, abs=1e-6)
        assert perfect["ap50"] == pytest.approx(1, abs=1e-6)
        assert all(value == pytest.approx(1, abs=1e-6) for value in perfect.values())
    nothing = score_boxes(np.zeros((COUNT, 20, 6), dtype=np.float32), GEOMETRY, truth, 6).scores
    assert nothing["map"] == nothing["ap50"] == 0


def test_letterbox_and_squash_map_boxes_differently(truth: BoxTruth) -> None:
    wrong = score_boxes(
        rows(truth, SPEC), BoxGeometry([(72, 96)] * COUNT, LETTERBOX), truth, 6
    ).scores
    assert wrong["map"] < 0.8


def direct(truth: BoxTruth, answer: NDArray[np.float32], folder: Path) -> Any:
    """Evaluate with pycocotools on files, as in its documentation."""
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
        coco = COCO(str(folder / "labels.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_map_equals_pycocotools_on_the_same_files(
    truth: BoxTruth, tmp_path: Path, seed: int
) -> None:
    answer = rows(truth, SPEC, seed)
    scores = score_boxes(answer, GEOMETRY, truth, 6).scores
    evaluated = direct(truth, answer, tmp_path)
    assert 0.02 < scores["map"] < 0.98
    assert scores["map"] == pytest.approx(evaluated.stats[0], abs=1e-6)
    assert scores["ap50"] == pytest.approx(evaluated.stats[1], abs=1e-6)
    precision = evaluated.eval["precision"][:, :, :, 0, 2]
    for k, category in enumerate(truth.categories):
        defined = precision[:, :, k][precision[:, :, k] > -1]
        if defined.size:
            expected = pytest.approx(defined.mean(), abs=1e-6)
            assert scores[f"ap_{category['name']}"] == expected


def test_category_ids_with_gaps_are_mapped_to_the_classes() -> None:
    frames = RenderedScenes(STREET, 1)
    annotation = {"bbox": [8.0, 8.0, 40.0, 30.0], "category_id": 17, "area": 1200.0, "iscrowd": 0}
    truth = BoxTruth(frames, ((annotation,),), ({"id": 5, "name": "x"}, {"id": 17, "name": "y"}))
    geometry = BoxGeometry([(128, 128)], SPEC)
    for label, expected in ((2, 1.0), (1, 0.0)):
        answer = np.array([[[8, 8, 48, 38, 0.9, label]]], dtype=np.float32)
        scores = score_boxes(answer, geometry, truth, 2).scores
        assert scores["map"] == pytest.approx(expected, abs=1e-6)
    for classes, label in ((17, 17), (90, 17)):
        answer = np.array([[[8, 8, 48, 38, 0.9, label]]], dtype=np.float32)
        assert score_boxes(answer, geometry, truth, classes).scores["map"] == pytest.approx(
            1, abs=1e-6
        )


def test_a_detection_of_a_crowd_is_neither_right_nor_wrong() -> None:
    frames = RenderedScenes(STREET, 1)
    one = {"bbox": [8.0, 8.0, 40.0, 30.0], "category_id": 1, "area": 1200.0, "iscrowd": 0}
    crowd = {"bbox": [60.0, 60.0, 60.0, 60.0], "category_id": 1, "area": 3600.0, "iscrowd": 1}
    truth = BoxTruth(frames, ((one, crowd),), ({"id": 1, "name": "x"},))
    answer = np.array([[[8, 8, 48, 38, 0.5, 1], [62, 62, 90, 90, 0.9, 1]]], dtype=np.float32)
    scores = score_boxes(answer, BoxGeometry([(128, 128)], SPEC), truth, 1).scores
    assert scores["map"] == pytest.approx(1, abs=1e-6)


def test_detections_agree_fully_with_themselves(truth: BoxTruth) -> None:
    answer = rows(truth, SPEC)
    right = boxes_from_answers(answer, GEOMETRY, 6, truth.frames)
    assert right is not None
    assert score_boxes(answer, GEOMETRY, right, 6).scores["map"] == pytest.approx(1, abs=1e-6)
    assert 0 < score_boxes(rows(truth, SPEC, 1), GEOMETRY, right, 6).scores["map"] < 0.98
    assert score_boxes(np.zeros_like(answer), GEOMETRY, right, 6).scores["map"] == 0


def test_answers_without_a_confident_detection_give_no_boxes(truth: BoxTruth) -> None:
    answer = rows(truth, SPEC)
    doubtful = answer.copy()
    doubtful[..., 4] = np.where(answer[..., 4] > 0, CONFIDENT_SCORE - 0.01, 0)
    assert boxes_from_answers(doubtful, GEOMETRY, 6, truth.frames) is None
