"""A bundle measures as its plan does, and two bundles are compared draw by draw."""

from __future__ import annotations

import numpy as np
import pytest
from bundles import model_specs, write_plan_bundle
from tiny import STREET, Weights, shares_in

from search.data.frames import RenderedScenes
from search.data.ground_truth import Truth, scenes_truth
from search.evaluation.bundles import BundleAccuracy, BundleFidelity, BundleQuality
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    compute_accuracy,
    compute_fidelity,
    quality_kept,
    quality_kept_by_model,
)
from search.statistics.observed import Observed
from spaces.bundle import Bundle, load_bundle
from spaces.plan import SharePlan

FRAMES = RenderedScenes(STREET, 12)
TRUTH = {
    "cls": scenes_truth(STREET, 16, "classification"),
    "det": scenes_truth(STREET, 12, "detection"),
}


@pytest.fixture(scope="module")
def plans(mixed: Observed) -> list[SharePlan]:
    """Three plans from classifier to detector, each at a later stage and so less fidelity."""
    shares = [share for share in shares_in(mixed) if share.recipient.model == "det"]
    return [SharePlan((share,)) for share in (shares[0], shares[len(shares) // 2], shares[-1])]


@pytest.fixture(scope="module")
def bundles(
    mixed: Observed,
    plans: list[SharePlan],
    weights: Weights,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Bundle]:
    folder, loaded = tmp_path_factory.mktemp("bundles"), []
    for number, plan in enumerate(plans):
        write_plan_bundle(mixed, plan, model_specs(weights), folder / str(number))
        loaded.append(load_bundle(folder / str(number)))
    return loaded


@pytest.fixture(scope="module")
def setup(mixed: Observed, plans: list[SharePlan]) -> EvaluationSetup:
    deployment = mixed.deployment
    return EvaluationSetup(deployment.models, deployment.facts, mixed.maps_for(plans), batch=5)


@pytest.fixture(scope="module")
def fidelities(setup: EvaluationSetup, bundles: list[Bundle]) -> list[BundleQuality]:
    measurement = BundleFidelity.prepare(setup, FRAMES)
    return [measurement.measure(bundle) for bundle in bundles]


@pytest.fixture(scope="module")
def qualities(
    setup: EvaluationSetup, bundles: list[Bundle], fidelities: list[BundleQuality]
) -> list[BundleQuality]:
    measurement = BundleAccuracy.prepare(setup, TRUTH)
    return [measurement.measure(*pair) for pair in zip(bundles, fidelities, strict=True)]


def test_the_fidelity_of_a_bundle_is_that_of_its_plan(
    setup: EvaluationSetup, plans: list[SharePlan], fidelities: list[BundleQuality]
) -> None:
    expected = compute_fidelity(setup, plans, FRAMES, lambda done: None)
    assert expected[0] != expected[1] != expected[2]
    for quality, by_model in zip(fidelities, expected, strict=True):
        assert quality.by_model == pytest.approx(by_model, abs=2e-3)
        assert quality.interval is not None and quality.mean is not None
        assert 0 <= quality.interval[0] <= quality.mean <= quality.interval[1] <= 1


@pytest.mark.parametrize("labelled", [["cls"], ["det"], ["cls", "det"]])
def test_the_quality_kept_by_a_bundle_is_that_of_its_plan(
    labelled: list[str], setup: EvaluationSetup, plans: list[SharePlan], bundles: list[Bundle]
) -> None:
    truth: dict[str, Truth] = {name: TRUTH[name] for name in labelled}
    fidelity = {"cls": 0.5, "det": 0.25}
    baseline, *expected = compute_accuracy(
        setup, [UNMERGED_PLAN, *plans], truth, lambda done: None
    )
    measurement = BundleAccuracy.prepare(setup, truth)
    for bundle, scores in zip(bundles, expected, strict=True):
        quality = measurement.measure(bundle, BundleQuality(fidelity, None))
        assert quality.by_model == pytest.approx(
            quality_kept_by_model(scores, baseline, fidelity), abs=2e-3
        )
        expected_quality = quality_kept(scores, baseline, fidelity)
        if expected_quality is None:  # the random detector finds none of the boxes, merged or not
            assert quality.drawn is None
        else:
            assert quality.drawn is not None and quality.mean == pytest.approx(
                expected_quality, abs=2e-3
            )


def test_the_lead_of_one_bundle_is_the_deficit_of_the_other(
    fidelities: list[BundleQuality], qualities: list[BundleQuality]
) -> None:
    for first, _, second in (fidelities, qualities):
        ahead, behind = first.minus(second), second.minus(first)
        assert ahead is not None and behind is not None
        assert first.mean is not None and second.mean is not None
        assert ahead[0] == first.mean - second.mean != 0
        assert ahead[1] <= ahead[0] <= ahead[2]
        np.testing.assert_allclose(ahead, [-behind[0], -behind[2], -behind[1]])
        assert first.minus(first) == (0, 0, 0)


def test_frames_hard_for_both_bundles_do_not_widen_the_interval() -> None:
    draws = np.random.default_rng(0).uniform(0.2, 0.8, 1000)
    better, worse = BundleQuality({"a": 0.6}, draws + 0.1), BundleQuality({"a": 0.5}, draws)
    np.testing.assert_allclose(better.minus(worse) or (), 0.1)
    assert better.interval is not None and better.interval[1] - better.interval[0] > 0.5


def test_without_any_reference_the_fidelity_is_undefined(
    setup: EvaluationSetup, bundles: list[Bundle]
) -> None:
    quality = BundleFidelity(setup, {}).measure(bundles[0])
    assert quality.by_model == {"cls": None, "det": None}
    assert quality.mean is None and quality.interval is None and quality.minus(quality) is None
