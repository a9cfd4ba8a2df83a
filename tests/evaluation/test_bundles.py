"""Bundles measured as they are: the numbers of their plans, and how two of them compare."""

from __future__ import annotations

import numpy as np
import pytest
from bundles import model_specs, write_plan_bundle
from tiny import STREET, Weights, shares_in

from search.data.frames import RenderedScenes
from search.data.ground_truth import Truth, scenes_truth
from search.evaluation.bundles import BundleQuality, ByAnswers, ByTruth
from search.evaluation.evaluate import (
    BASELINE,
    EvaluationSetup,
    accuracy,
    fidelity,
    kept_by_model,
    quality_kept,
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
    """The detector's stages from the classifier's, ever later ones, which hurts ever more."""
    shares = [share for share in shares_in(mixed) if share.recipient.model == "det"]
    return [SharePlan((share,)) for share in (shares[0], shares[len(shares) // 2], shares[-1])]


@pytest.fixture(scope="module")
def bundles(
    mixed: Observed,
    plans: list[SharePlan],
    weights: Weights,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Bundle]:
    folder, found = tmp_path_factory.mktemp("bundles"), []
    for number, plan in enumerate(plans):
        write_plan_bundle(mixed, plan, model_specs(weights), folder / str(number))
        found.append(load_bundle(folder / str(number)))
    return found


@pytest.fixture(scope="module")
def bench(mixed: Observed, plans: list[SharePlan]) -> EvaluationSetup:
    known = mixed.deployment
    return EvaluationSetup(known.models, known.facts, mixed.maps_for(plans), batch=5)


@pytest.fixture(scope="module")
def agreed(bench: EvaluationSetup, bundles: list[Bundle]) -> list[BundleQuality]:
    """By answers."""
    answers = ByAnswers.on(bench, FRAMES)
    return [answers.measure(bundle) for bundle in bundles]


@pytest.fixture(scope="module")
def kept(
    bench: EvaluationSetup, bundles: list[Bundle], agreed: list[BundleQuality]
) -> list[BundleQuality]:
    """By truth."""
    truth = ByTruth.on(bench, TRUTH)
    return [truth.measure(*both) for both in zip(bundles, agreed, strict=True)]


def test_by_answers_it_is_the_fidelity_of_the_plan(
    bench: EvaluationSetup, plans: list[SharePlan], agreed: list[BundleQuality]
) -> None:
    wanted = fidelity(bench, plans, FRAMES, lambda done: None)
    assert wanted[0] != wanted[1] != wanted[2]
    for found, by_model in zip(agreed, wanted, strict=True):
        assert found.by_model == pytest.approx(by_model, abs=2e-3)
        assert found.interval is not None and found.mean is not None
        assert 0 <= found.interval[0] <= found.mean <= found.interval[1] <= 1


@pytest.mark.parametrize("labelled", [["cls"], ["det"], ["cls", "det"]])
def test_by_truth_it_is_the_quality_that_the_plan_keeps(
    labelled: list[str], bench: EvaluationSetup, plans: list[SharePlan], bundles: list[Bundle]
) -> None:
    known: dict[str, Truth] = {name: TRUTH[name] for name in labelled}
    faithful = {"cls": 0.5, "det": 0.25}
    baseline, *wanted = accuracy(bench, [BASELINE, *plans], known, lambda done: None)
    truth = ByTruth.on(bench, known)
    for bundle, scores in zip(bundles, wanted, strict=True):
        found = truth.measure(bundle, BundleQuality(faithful, None))
        assert found.by_model == pytest.approx(kept_by_model(scores, baseline, faithful), abs=2e-3)
        quality = quality_kept(scores, baseline, faithful)
        if quality is None:  # the random detector finds none of the boxes, merged or not
            assert found.drawn is None
        else:
            assert found.drawn is not None and found.mean == pytest.approx(quality, abs=2e-3)


def test_a_lead_is_the_other_ones_with_its_sign_changed(
    agreed: list[BundleQuality], kept: list[BundleQuality]
) -> None:
    for first, _, second in (agreed, kept):
        ahead, behind = first.minus(second), second.minus(first)
        assert ahead is not None and behind is not None
        assert first.mean is not None and second.mean is not None
        assert ahead[0] == first.mean - second.mean != 0
        assert ahead[1] <= ahead[0] <= ahead[2]
        np.testing.assert_allclose(ahead, [-behind[0], -behind[2], -behind[1]])
        assert first.minus(first) == (0, 0, 0)


def test_frames_that_are_hard_for_both_do_not_widen_a_lead() -> None:
    drawn = np.random.default_rng(0).uniform(0.2, 0.8, 1000)
    better, worse = BundleQuality({"a": 0.6}, drawn + 0.1), BundleQuality({"a": 0.5}, drawn)
    np.testing.assert_allclose(better.minus(worse) or (), 0.1)
    assert better.interval is not None and better.interval[1] - better.interval[0] > 0.5


def test_without_anything_to_measure_by_nothing_is_known(
    bench: EvaluationSetup, bundles: list[Bundle]
) -> None:
    found = ByAnswers(bench, {}).measure(bundles[0])
    assert found.by_model == {"cls": None, "det": None}
    assert found.mean is None and found.interval is None and found.minus(found) is None
