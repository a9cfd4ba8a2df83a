"""Verifying many plans at once gives each the numbers that its merged model gets alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny import STREET, shares_in

from search.data.frames import FrameSet
from search.data.ground_truth import BoxTruth, ClassTruth, Truth, scenes_truth
from search.evaluation.accuracy import Geometry, boxes_of, coco_map, ranked, top_k
from search.evaluation.evaluate import (
    BASELINE,
    EvaluationSetup,
    accuracy,
    fidelity,
    quality_kept,
    steps_to_verify,
)
from search.evaluation.per_frame import main_score
from search.statistics.observed import Observed
from search.utils.progress import silent
from spaces.inputs import prepare_batch
from spaces.merged import MergedModel
from spaces.plan import IDENTITY, SharePlan

COUNT = 12
LABELS, BOXES = (scenes_truth(STREET, COUNT, t) for t in ("classification", "detection"))


def some_plans(observed: Observed) -> list[SharePlan]:
    """Single shares spread over the space, and one plan of two."""
    shares = shares_in(observed)
    recipients = {share.recipient.model: share for share in shares}
    plans = [SharePlan((share,)) for share in shares[:: len(shares) // 4]]
    last = next(iter(recipients.values()))
    first = next(share for share in shares if share.recipient.model == last.recipient.model)
    assert first.recipient != last.recipient
    return [*plans, SharePlan((first, last))]


def bench(observed: Observed, plans: Sequence[SharePlan], batch: int = 5) -> EvaluationSetup:
    known = observed.deployment
    return EvaluationSetup(known.models, known.facts, observed.maps_for(plans), batch)


def answers(observed: Observed, plan: SharePlan, frames: FrameSet) -> dict[str, np.ndarray]:
    """What the merged model of one plan says, five frames at a time."""
    known = observed.deployment
    merged = MergedModel(known.models, known.facts, plan, observed.maps_for([plan]))
    said: dict[str, list[np.ndarray]] = {name: [] for name in known.models}
    with torch.inference_mode():
        for start in range(0, len(frames), 5):
            pictures = [frames[i] for i in range(start, min(start + 5, len(frames)))]
            inputs = {n: prepare_batch(pictures, m.input) for n, m in known.models.items()}
            for name, answer in merged(inputs).items():
                said[name].append(answer.numpy())
    return {name: np.concatenate(parts) for name, parts in said.items()}


def test_many_classifiers_at_once_score_as_each_merged_model_alone(pair: Observed) -> None:
    plans = [BASELINE, *some_plans(pair)]
    assert isinstance(LABELS, ClassTruth)
    truth: dict[str, Truth] = {"a": LABELS, "b": LABELS}
    together = accuracy(bench(pair, plans), plans, truth, silent)
    for plan, scores in zip(plans, together, strict=True):
        alone = answers(pair, plan, LABELS.frames)
        assert scores == {
            name: top_k(ranked(alone[name]), LABELS.labels).scores for name in ("a", "b")
        }


def test_many_classifiers_at_once_agree_as_each_merged_model_alone(pair: Observed) -> None:
    plans = some_plans(pair)
    together = fidelity(bench(pair, plans), plans, pair.held_out, silent)
    original = answers(pair, BASELINE, pair.held_out)
    for plan, found in zip(plans, together, strict=True):
        alone = answers(pair, plan, pair.held_out)
        for name in ("a", "b"):
            equal = alone[name].argmax(1) == original[name].argmax(1)
            assert found[name] == equal.mean()
    assert any(value != 1 for found in together for value in found.values())


def test_detectors_at_once_score_as_each_merged_model_alone(mixed: Observed) -> None:
    assert isinstance(BOXES, BoxTruth)
    plans = [BASELINE, *some_plans(mixed)[:3]]
    together = accuracy(bench(mixed, plans), plans, {"det": BOXES}, silent)
    model = mixed.deployment.models["det"]
    geometry = Geometry([(72, 96)] * COUNT, model.input)
    for plan, scores in zip(plans, together, strict=True):
        alone = coco_map(answers(mixed, plan, BOXES.frames)["det"], geometry, BOXES, 6).scores
        assert set(scores) == {"det"}
        assert scores["det"] == pytest.approx(alone, abs=2e-3)


def test_detectors_at_once_agree_as_each_merged_model_alone(mixed: Observed) -> None:
    plans = some_plans(mixed)[:3]
    together = fidelity(bench(mixed, plans), plans, mixed.held_out, silent)
    model = mixed.deployment.models["det"]
    geometry = Geometry([(72, 96)] * len(mixed.held_out), model.input)
    original = answers(mixed, BASELINE, mixed.held_out)["det"]
    right = boxes_of(original, geometry, 6, mixed.held_out)
    assert right is not None
    for plan, found in zip(plans, together, strict=True):
        alone = answers(mixed, plan, mixed.held_out)["det"]
        wanted = coco_map(alone, geometry, right, 6).scores["map"]
        assert found["det"] == pytest.approx(wanted, abs=2e-2)


def test_copies_that_share_by_identity_keep_everything(copies: Observed) -> None:
    shares = [s for s in shares_in(copies, IDENTITY) if s.donor.stage == s.recipient.stage]
    plans = [SharePlan((share,)) for share in shares]
    checked = bench(copies, plans)
    assert isinstance(LABELS, ClassTruth)
    truth: dict[str, Truth] = {"a": LABELS, "b": LABELS}
    faithful = fidelity(checked, plans, copies.held_out, silent)
    assert faithful == [{"a": 1.0, "b": 1.0}] * len(plans)
    baseline, *scores = accuracy(checked, [BASELINE, *plans], truth, silent)
    assert main_score(baseline["a"]) > 0
    for found, agreed in zip(scores, faithful, strict=True):
        assert found == baseline
        assert quality_kept(found, baseline, agreed) == 1


def test_models_with_the_same_frames_are_verified_in_one_pass(mixed: Observed) -> None:
    truth = {"cls": LABELS, "det": BOXES}
    told: list[int] = []
    plans = [BASELINE, *some_plans(mixed)[:2]]
    accuracy(bench(mixed, plans), plans, truth, told.append)
    assert sum(told) == steps_to_verify(3, truth) == COUNT + 3 * 2
    other = scenes_truth(STREET, COUNT - 1, "classification")
    assert steps_to_verify(3, {"cls": other, "det": BOXES}) == 2 * COUNT - 1 + 3 * 2


def test_only_models_with_truth_are_scored(pair: Observed) -> None:
    plans = [BASELINE, *some_plans(pair)[:1]]
    found = accuracy(bench(pair, plans), plans, {"b": LABELS}, silent)
    assert [set(scores) for scores in found] == [{"b"}, {"b"}]


def test_quality_kept_by_hand() -> None:
    baseline = {"a": {"top1": 0.8, "top5": 1.0}, "b": {"map": 0.5, "ap50": 0.6}}
    merged = {"a": {"top1": 0.6, "top5": 1.0}, "b": {"map": 0.4, "ap50": 0.6}}
    assert quality_kept(merged, baseline, {}) == pytest.approx((0.75 + 0.8) / 2)
    # ground truth goes before fidelity; a model without ground truth counts with its fidelity
    assert quality_kept(merged, baseline, {"a": 0.1}) == pytest.approx((0.75 + 0.8) / 2)
    assert quality_kept(merged, baseline, {"c": 0.9}) == pytest.approx((0.75 + 0.8 + 0.9) / 3)
    # an unmerged score of 0 says nothing
    hopeless = {**baseline, "b": {"map": 0.0, "ap50": 0.0}}
    assert quality_kept(merged, hopeless, {}) == pytest.approx(0.75)
    assert quality_kept(merged, hopeless, {"b": 0.5}) == pytest.approx((0.75 + 0.5) / 2)
    assert quality_kept({}, {}, {"a": 1.0}) is None


def test_accuracy_may_rise() -> None:
    assert quality_kept({"a": {"top1": 0.9}}, {"a": {"top1": 0.6}}, {}) == pytest.approx(1.5)
