"""Results are plain data that come back equal, and the choice among candidates is by rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny import FinishedRun

from search.results.search_result import (
    CandidateRecord,
    Result,
    choose_candidate,
    package_versions,
)
from search.utils.records import load_record
from spaces.plan import SharePlan


def candidate(
    name: str, size: int, quality: float | None, fidelity: float | None
) -> CandidateRecord:
    plan: dict[str, Any] = SharePlan().to_dict()
    by_model = {} if quality is None else {"a": quality}
    costs = {"bytes": size / 1e6}
    return CandidateRecord(
        name, plan, size, 1, 10.0, 0.5, costs, {"a": fidelity}, {}, by_model, quality, {}, {}, None
    )


def test_a_result_comes_back_equal_from_its_file(tiny_run: FinishedRun) -> None:
    text = (tiny_run.out / "result.json").read_text(encoding="utf-8")
    assert load_record(Result, text, "result.json") == tiny_run.result


def test_a_result_names_its_versions(tiny_run: FinishedRun) -> None:
    assert tiny_run.result.versions == package_versions()
    assert {"python", "torch", "timm", "optuna", "merge-search"} <= set(package_versions())


def test_a_result_holds_its_config(tiny_run: FinishedRun) -> None:
    assert tiny_run.result.config == tiny_run.config.as_written()


@pytest.mark.parametrize(
    ("better", "other"),
    [
        (candidate("x", 9, 0.9, 0.1), candidate("y", 1, 0.8, 1.0)),  # quality before fidelity
        (candidate("x", 9, 0.9, 0.7), candidate("y", 1, 0.9, 0.6)),  # then fidelity
        (candidate("x", 1, 0.9, 0.7), candidate("y", 9, 0.9, 0.7)),  # then bytes
        (candidate("x", 9, 0.1, None), candidate("y", 1, None, 1.0)),  # measured before unmeasured
        (candidate("x", 9, None, 0.7), candidate("y", 1, None, 0.6)),  # without labels: fidelity
        (candidate("x", 9, None, 0.0), candidate("y", 1, None, None)),
    ],
)
def test_the_choice_is_by_quality_then_fidelity_then_bytes(
    better: CandidateRecord, other: CandidateRecord
) -> None:
    assert (
        choose_candidate([better, other], None) is better
        and choose_candidate([other, better], None) is better
    )


def test_with_a_quality_floor_the_smallest_candidate_above_it_is_chosen() -> None:
    good = candidate("good", 9, 0.99, 1.0)
    small, poor = candidate("small", 5, 0.97, 1.0), candidate("poor", 1, 0.96, 1.0)
    assert choose_candidate([good, small, poor], 0.97) is small
    assert choose_candidate([good, small, poor], 0.98) is good
    assert choose_candidate([good, small, poor], 0.995) is None


def test_the_quality_floor_holds_for_every_model_and_for_the_fidelity_of_unlabelled_ones() -> None:
    good = candidate("x", 1, 0.99, 1.0)
    lopsided = replace(good, kept={"a": 1.2, "b": 0.9}, quality_kept=1.05)
    assert (
        choose_candidate([lopsided], 0.95) is None
        and choose_candidate([lopsided], 0.9) is lopsided
    )
    unlabelled = replace(good, kept={"a": 0.98}, quality_kept=None)
    assert choose_candidate([unlabelled], 0.97) is unlabelled
    assert choose_candidate([replace(good, kept={})], 0.1) is None  # nothing was measured


def test_without_candidates_no_plan_is_chosen() -> None:
    assert choose_candidate([], None) is None and choose_candidate([], 0.5) is None


def test_the_mean_fidelity_is_over_the_models_that_have_one() -> None:
    unmeasured = candidate("x", 1, None, None)
    assert unmeasured.mean_fidelity is None
    measured = replace(unmeasured, fidelity={"a": 0.5, "b": None, "c": 1.0})
    assert measured.mean_fidelity == 0.75
