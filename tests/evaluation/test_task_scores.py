"""Scores of embeddings, segmentations and dense networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny import STREET

from search.data.frames import RenderedScenes, Sampling
from search.data.ground_truth import BadTruth, ClassTruth, MaskTruth, Truth
from search.data.masks import ImageMasks, folder_masks
from search.evaluation.bootstrap import bootstrap_draws
from search.evaluation.chance import scores_at_chance
from search.evaluation.per_frame import MAIN_SCORES, FrameScores, main_score_name
from search.evaluation.tasks.embedding import (
    chance_of_recall,
    score_likeness,
    score_recall,
)
from search.evaluation.tasks.registry import SCORING, TRUTH_SCORES
from search.evaluation.tasks.scoring import Setting, UnmergedAnswers
from search.evaluation.tasks.segmentation import score_masks
from spaces.model_spec import ModelSpec
from spaces.stages import StagedModel
from spaces.tasks.registry import TASKS
from spaces.tasks.segmentation import to_frame
from spaces.zoo import load_model

RNG = np.random.default_rng(3)
IDENTITY = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])


def test_every_task_is_scored_and_every_main_score_is_known() -> None:
    assert set(SCORING) == set(TASKS)
    assert set(TRUTH_SCORES) <= set(MAIN_SCORES)
    assert set(TRUTH_SCORES.values()) == {t for t, s in SCORING.items() if s.label_formats}


# Embeddings.


def clustered(spread: float) -> NDArray[np.float64]:
    """Return embeddings that lie around one direction per identity."""
    directions = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    noise: NDArray[np.float64] = spread * RNG.normal(size=(len(IDENTITY), 8))
    embeddings: NDArray[np.float64] = directions[IDENTITY] + noise
    return embeddings


def slow_recall(embeddings: NDArray[np.float64], first: int) -> list[float]:
    """Return, frame by frame, whether one of the nearest others has the identity."""
    found = []
    for k, own in enumerate(embeddings):
        others = [i for i in range(len(embeddings)) if i != k]
        cosines = {
            i: own @ embeddings[i] / np.linalg.norm(own) / np.linalg.norm(embeddings[i])
            for i in others
        }
        nearest = sorted(others, key=lambda i: -cosines[i])[:first]
        same = [i for i in others if IDENTITY[i] == IDENTITY[k]]
        found.append(float(any(i in same for i in nearest)) if same else np.nan)
    return found


@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0])
def test_recall_is_that_of_looking_at_every_pair(spread: float) -> None:
    embeddings = clustered(spread)
    scores = score_recall(embeddings, IDENTITY)
    for name, first in (("recall1", 1), ("recall5", 5)):
        np.testing.assert_array_equal(scores.values[name], slow_recall(embeddings, first))
    if spread == 0.01:
        assert scores.scores == {"recall1": 1.0, "recall5": 1.0}


def test_a_frame_that_is_alone_in_its_identity_does_not_count() -> None:
    """Eight of the nine frames are looked up, in every draw as well."""
    scores = score_recall(clustered(3.0), IDENTITY)
    only_alone = np.zeros((1, 9))
    only_alone[0, 8] = 4
    assert np.isnan(scores.resample(only_alone)["recall1"]).all()
    mixed = only_alone + np.eye(9)[:1]
    assert scores.resample(mixed)["recall1"] == scores.values["recall1"][0]


def test_likeness_is_1_for_turned_and_scaled_embeddings_and_falls_with_noise() -> None:
    """Neighbours see angles only; the cosine also sees that all were turned."""
    vectors = RNG.normal(size=(40, 6))
    turn = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    same = score_likeness(3 * vectors, vectors).scores
    assert same == pytest.approx({"neighbours": 1.0, "cosine": 1.0})
    turned = score_likeness(vectors @ turn, vectors).scores
    assert turned["neighbours"] == 1.0 and turned["cosine"] < 0.9
    kept = [
        score_likeness(vectors + noise * RNG.normal(size=vectors.shape), vectors).scores
        for noise in (0.01, 0.3, 3.0)
    ]
    assert kept[0]["neighbours"] > kept[1]["neighbours"] > kept[2]["neighbours"]
    assert kept[2]["neighbours"] < 0.6  # ten of 39 by chance: 0.26


def test_the_chance_of_recall_is_that_of_a_random_neighbour() -> None:
    """Of nine frames, three, two, three and one show the same."""
    chance, looked_up = chance_of_recall(IDENTITY)
    assert looked_up == 8
    assert chance == pytest.approx((3 * 2 + 2 * 1 + 3 * 2) / 8 / 8)


def labelled(labels: list[int]) -> ClassTruth:
    return ClassTruth.single(RenderedScenes(STREET, len(labels)), labels)


def test_embeddings_at_chance_and_without_pairs_are_named() -> None:
    truth = labelled([*IDENTITY.tolist()] * 10)
    assert "recall@1" in scores_at_chance({"r": {"recall1": 0.25}}, {"r": truth})["r"]
    assert not scores_at_chance({"r": {"recall1": 0.9}}, {"r": truth})
    SCORING["embedding"].check(truth, 0, "r")
    with pytest.raises(BadTruth, match=r"truth\.r: no identity has two images"):
        SCORING["embedding"].check(labelled([0, 1, 2, 3]), 0, "r")


# Segmentations.


@pytest.fixture(scope="module")
def segmentation() -> StagedModel:
    return load_model(ModelSpec("seg", "python:own_networks:segmentation", "none"))


@pytest.fixture
def masks(tmp_path: Path) -> MaskTruth:
    """Return five images of several sizes with random masks: three classes, ignored pixels."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for k, (height, width) in enumerate([(40, 60), (64, 64), (30, 90), (50, 20), (33, 65)]):
        pixels = RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{k}.png")
        mask = RNG.choice([0, 1, 1, 2, 255], (height // 5 + 1, width // 5 + 1)).astype(np.uint8)
        large = np.kron(mask, np.ones((5, 5), np.uint8))[:height, :width]
        Image.fromarray(large).save(tmp_path / "masks" / f"{k}.png")
    given = ImageMasks(tmp_path / "masks", tmp_path / "images", 255)
    return folder_masks(given, Sampling(), ("road", "car"))


def sizes(truth: Truth) -> list[tuple[int, int]]:
    return [truth.frames[k].shape[:2] for k in range(len(truth.frames))]


def slow_iou(answers: list[Any], truth: MaskTruth, frames: list[int]) -> dict[int, float]:
    """Return each class's IoU over some frames, pixel by pixel."""
    right: dict[int, int] = {}
    involved: dict[int, int] = {}
    for k in frames:
        mask = np.asarray(Image.open(truth.masks[k]))
        for expected, given in zip(mask.flat, np.asarray(answers[k]).flat, strict=True):
            if expected == 255:
                continue
            for label in {int(expected), int(given)}:
                involved[label] = involved.get(label, 0) + 1
                right[label] = right.get(label, 0) + int(expected == given)
    return {label: right[label] / involved[label] for label in involved}


def test_iou_is_that_of_counting_every_pixel(masks: MaskTruth, segmentation: StagedModel) -> None:
    answers = RNG.integers(0, 3, (5, 8, 8)).astype(np.uint8)
    setting = Setting(segmentation, sizes(masks))
    scores = score_masks(answers, masks, setting)
    maps = [
        to_frame(torch.from_numpy(a), size, segmentation.input)
        for a, size in zip(answers, sizes(masks), strict=True)
    ]
    for counts, frames in (([1, 1, 1, 1, 1], [0, 1, 2, 3, 4]), ([0, 2, 0, 0, 1], [1, 1, 4])):
        expected = slow_iou(maps, masks, frames)
        drawn = scores.resample(np.array([counts], dtype=float))
        assert drawn["miou"][0] == pytest.approx(np.mean([*expected.values()]))
        names = {0: "road", 1: "car", 2: "2"}
        for label, value in expected.items():
            assert drawn[f"iou_{names[label]}"][0] == pytest.approx(value)


def test_masks_as_answers_score_1(masks: MaskTruth, segmentation: StagedModel) -> None:
    """One frame of the input's own size, so that no pixel is resized."""
    mask = np.asarray(Image.open(masks.masks[1]))
    one = MaskTruth(RenderedScenes(STREET, 1), (masks.masks[1],))
    answers = np.where(mask == 255, 0, mask)[None]
    scores = score_masks(answers, one, Setting(segmentation, [(64, 64)])).scores
    assert scores["miou"] == scores["pixels"] == 1.0


def test_a_class_that_nothing_shows_is_not_in_the_mean(
    tmp_path: Path, segmentation: StagedModel
) -> None:
    Image.fromarray(np.ones((16, 16), np.uint8)).save(tmp_path / "m.png")
    truth = MaskTruth(RenderedScenes(STREET, 1), (tmp_path / "m.png",))
    half = np.ones((1, 16, 16), np.uint8)
    half[0, :4] = 0
    scores = score_masks(half, truth, Setting(segmentation, [(16, 16)])).scores
    assert scores == {"miou": 0.375, "pixels": 0.75, "iou_0": 0.0, "iou_1": 0.75}


def test_pixels_of_an_ignored_class_number_count_nowhere(
    tmp_path: Path, segmentation: StagedModel
) -> None:
    """The value that is ignored may be a number that a class has."""
    mask = np.ones((16, 16), np.uint8)
    mask[:4] = 0
    Image.fromarray(mask).save(tmp_path / "m.png")
    truth = MaskTruth(RenderedScenes(STREET, 1), (tmp_path / "m.png",), ignore=1)
    answers = np.zeros((1, 16, 16), np.uint8)
    scores = score_masks(answers, truth, Setting(segmentation, [(16, 16)])).scores
    assert scores == {"miou": 1.0, "pixels": 1.0, "iou_0": 1.0}


# All that are compared with the unmerged model's answers.


@pytest.mark.parametrize(
    ("task", "function"),
    [("embedding", "embedding"), ("segmentation", "segmentation"), ("dense", "depth")],
)
@torch.no_grad()
def test_a_model_keeps_all_of_its_own_answers_and_less_of_others(task: Any, function: str) -> None:
    model = load_model(ModelSpec("net", f"python:own_networks:{function}", "none"))
    scoring = SCORING[model.task]
    assert scoring.task == task
    inputs = model.example_input(12)
    answers = scoring.compact(model(inputs))
    changed = scoring.compact(model(inputs.flip(0)))
    setting = Setting(model, [(64, 64)] * 12)
    expected = scoring.as_expected(answers, setting, RenderedScenes(STREET, 12))
    assert isinstance(expected, UnmergedAnswers)
    own: FrameScores = scoring.score(answers, expected, setting)
    other = scoring.score(changed, expected, setting)
    assert main_score_name(own.scores) == own.main == main_score_name(other.scores)
    assert own.scores[own.main] == pytest.approx(1)
    assert 0 <= other.scores[own.main] < 0.99
    (table, *_) = bootstrap_draws(12, 5)
    drawn = other.resample(table)[own.main]
    assert drawn.min() < other.scores[own.main] < drawn.max()
