"""Plans evaluated together score as their merged models do on their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny import STREET, shares_in

from search.data.frames import FrameSet
from search.data.ground_truth import BoxTruth, ClassTruth, Truth, scenes_truth
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    compute_accuracy,
    compute_fidelity,
    quality_kept,
    verification_steps,
)
from search.evaluation.per_frame import main_score
from search.evaluation.tasks.classification import score_classes, top_classes
from search.evaluation.tasks.detection import BoxGeometry, boxes_from_answers, score_boxes
from search.statistics.observed import Observed
from search.utils.progress import silent
from spaces.inputs import prepare_batch
from spaces.merged import MergedModel
from spaces.plan import IDENTITY, SharePlan

COUNT = 12
LABELS, BOXES = (scenes_truth(STREET, COUNT, t) for t in ("classification", "detection"))


def some_plans(observed: Observed) -> list[SharePlan]:
    """Return plans of one share spread over the space, and one plan of two shares."""
    shares = shares_in(observed)
    recipients = {share.recipient.model: share for share in shares}
    plans = [SharePlan((share,)) for share in shares[:: len(shares) // 4]]
    last = next(iter(recipients.values()))
    first = next(share for share in shares if share.recipient.model == last.recipient.model)
    assert first.recipient != last.recipient
    return [*plans, SharePlan((first, last))]


def setup_of(observed: Observed, plans: Sequence[SharePlan], batch: int = 5) -> EvaluationSetup:
    deployment = observed.deployment
    return EvaluationSetup(deployment.models, deployment.facts, observed.maps_for(plans), batch)


def answers(observed: Observed, plan: SharePlan, frames: FrameSet) -> dict[str, np.ndarray]:
    """Return the answers of one plan's merged model, computed five frames at a time."""
    deployment = observed.deployment
    merged = MergedModel(deployment.models, deployment.facts, plan, observed.maps_for([plan]))
    collected: dict[str, list[np.ndarray]] = {name: [] for name in deployment.models}
    with torch.inference_mode():
        for start in range(0, len(frames), 5):
            pictures = [frames[i] for i in range(start, min(start + 5, len(frames)))]
            inputs = {n: prepare_batch(pictures, m.input) for n, m in deployment.models.items()}
            for name, answer in merged(inputs).items():
                collected[name].append(answer.numpy())
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def test_classifiers_evaluated_together_score_as_each_merged_model(pair: Observed) -> None:
    plans = [UNMERGED_PLAN, *some_plans(pair)]
    assert isinstance(LABELS, ClassTruth)
    truth: dict[str, Truth] = {"a": LABELS, "b": LABELS}
    together = compute_accuracy(setup_of(pair, plans), plans, truth, silent)
    for plan, scores in zip(plans, together, strict=True):
        alone = answers(pair, plan, LABELS.frames)
        assert scores == {
            name: score_classes(top_classes(alone[name]), LABELS.labels).scores
            for name in ("a", "b")
        }


def test_classifiers_evaluated_together_have_the_fidelity_of_each_merged_model(
    pair: Observed,
) -> None:
    plans = some_plans(pair)
    together = compute_fidelity(setup_of(pair, plans), plans, pair.held_out, silent)
    original = answers(pair, UNMERGED_PLAN, pair.held_out)
    for plan, fidelity_by_model in zip(plans, together, strict=True):
        alone = answers(pair, plan, pair.held_out)
        for name in ("a", "b"):
            equal = alone[name].argmax(1) == original[name].argmax(1)
            assert fidelity_by_model[name] == equal.mean()
    assert any(
        value != 1 for fidelity_by_model in together for value in fidelity_by_model.values()
    )


def test_detectors_evaluated_together_score_as_each_merged_model(mixed: Observed) -> None:
    assert isinstance(BOXES, BoxTruth)
    plans = [UNMERGED_PLAN, *some_plans(mixed)[:3]]
    together = compute_accuracy(setup_of(mixed, plans), plans, {"det": BOXES}, silent)
    model = mixed.deployment.models["det"]
    geometry = BoxGeometry([(72, 96)] * COUNT, model.input)
    for plan, scores in zip(plans, together, strict=True):
        alone = score_boxes(answers(mixed, plan, BOXES.frames)["det"], geometry, BOXES, 6).scores
        assert set(scores) == {"det"}
        assert scores["det"] == pytest.approx(alone, abs=2e-3)


def test_detectors_evaluated_together_have_the_fidelity_of_each_merged_model(
    mixed: Observed,
) -> None:
    plans = some_plans(mixed)[:3]
    together = compute_fidelity(setup_of(mixed, plans), plans, mixed.held_out, silent)
    model = mixed.deployment.models["det"]
    geometry = BoxGeometry([(72, 96)] * len(mixed.held_out), model.input)
    original = answers(mixed, UNMERGED_PLAN, mixed.held_out)["det"]
    right = boxes_from_answers(original, geometry, 6, mixed.held_out)
    assert right is not None
    for plan, fidelity_by_model in zip(plans, together, strict=True):
        alone = answers(mixed, plan, mixed.held_out)["det"]
        expected = score_boxes(alone, geometry, right, 6).scores["map"]
        assert fidelity_by_model["det"] == pytest.approx(expected, abs=2e-2)


def test_copies_that_share_by_identity_keep_all_quality(copies: Observed) -> None:
    shares = [s for s in shares_in(copies, IDENTITY) if s.donor.stage == s.recipient.stage]
    plans = [SharePlan((share,)) for share in shares]
    checked = setup_of(copies, plans)
    assert isinstance(LABELS, ClassTruth)
    truth: dict[str, Truth] = {"a": LABELS, "b": LABELS}
    fidelities = compute_fidelity(checked, plans, copies.held_out, silent)
    assert fidelities == [{"a": 1.0, "b": 1.0}] * len(plans)
    baseline, *scores = compute_accuracy(checked, [UNMERGED_PLAN, *plans], truth, silent)
    assert main_score(baseline["a"]) > 0
    for plan_scores, fidelity in zip(scores, fidelities, strict=True):
        assert plan_scores == baseline
        assert quality_kept(plan_scores, baseline, fidelity) == 1


def test_models_with_the_same_frames_are_verified_in_one_pass(mixed: Observed) -> None:
    truth = {"cls": LABELS, "det": BOXES}
    steps: list[int] = []
    plans = [UNMERGED_PLAN, *some_plans(mixed)[:2]]
    compute_accuracy(setup_of(mixed, plans), plans, truth, steps.append)
    assert sum(steps) == verification_steps(3, truth) == COUNT + 3 * 2
    other = scenes_truth(STREET, COUNT - 1, "classification")
    assert verification_steps(3, {"cls": other, "det": BOXES}) == 2 * COUNT - 1 + 3 * 2


def test_only_models_with_ground_truth_are_scored(pair: Observed) -> None:
    plans = [UNMERGED_PLAN, *some_plans(pair)[:1]]
    scores_by_plan = compute_accuracy(setup_of(pair, plans), plans, {"b": LABELS}, silent)
    assert [set(scores) for scores in scores_by_plan] == [{"b"}, {"b"}]


def test_quality_kept_is_the_mean_ratio_of_main_scores() -> None:
    baseline = {"a": {"top1": 0.8, "top5": 1.0}, "b": {"map": 0.5, "ap50": 0.6}}
    merged = {"a": {"top1": 0.6, "top5": 1.0}, "b": {"map": 0.4, "ap50": 0.6}}
    assert quality_kept(merged, baseline, {}) == pytest.approx((0.75 + 0.8) / 2)
    # fidelity counts only for a model without ground truth
    assert quality_kept(merged, baseline, {"a": 0.1}) == pytest.approx((0.75 + 0.8) / 2)
    assert quality_kept(merged, baseline, {"c": 0.9}) == pytest.approx((0.75 + 0.8 + 0.9) / 3)
    # an unmerged score of 0 has no ratio
    zero_baseline = {**baseline, "b": {"map": 0.0, "ap50": 0.0}}
    assert quality_kept(merged, zero_baseline, {}) == pytest.approx(0.75)
    assert quality_kept(merged, zero_baseline, {"b": 0.5}) == pytest.approx((0.75 + 0.5) / 2)
    assert quality_kept({}, {}, {"a": 1.0}) is None


def test_quality_kept_may_exceed_1() -> None:
    assert quality_kept({"a": {"top1": 0.9}}, {"a": {"top1": 0.6}}, {}) == pytest.approx(1.5)
