"""Runs that search precisions together with shares, on tiny networks and rendered frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    CLASSIFIER,
    FinishedRun,
    Weights,
    capture_reporter,
    config_data,
    run_config,
    with_changes,
    write_config,
)

from search.config.base import BadConfig
from search.config.loading import load_config
from search.deploy.export import ExportRequest
from search.pipelines.deployment.load import load_deployment
from search.pipelines.exact import find_exact_front
from search.pipelines.export import export
from search.pipelines.run import run_without_logging
from search.pipelines.run_steps.records import PriorKnowledge
from search.pipelines.verify import verify
from search.pipelines.verify_inputs import VerificationInputs
from search.utils.files import make_folder
from spaces.bundle import load_bundle
from spaces.cost import CostModel
from spaces.plan import Precision, Ref, SharePlan
from spaces.stages import total_bytes, unique_tensors

PRECISIONS: list[Precision] = ["float32", "float16", "int8"]


@pytest.fixture(scope="module")
def finished(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Return one run at a budget that cannot be met in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        data = with_changes(
            config_data(weights),
            {"search.precision": PRECISIONS, "budget": "30%", "search.trials": 120},
        )
        return run_config(write_config(tmp_path_factory.mktemp("precise"), data))


def plans_of(finished: FinishedRun) -> list[SharePlan]:
    records = (*finished.result.front, *finished.result.candidates)
    return [SharePlan.from_dict(record.plan) for record in records]


def test_the_search_reaches_a_budget_that_float32_cannot_meet(finished: FinishedRun) -> None:
    result = finished.result
    assert result.chosen and result.budget_bytes == int(0.3 * result.unmerged_bytes)
    assert all(record.bytes <= result.budget_bytes for record in result.front)
    plans = plans_of(finished)
    assert any(plan.shares for plan in plans) and all(plan.precisions for plan in plans)
    assert {"int8"} < {p for plan in plans for _, p in plan.precisions} <= set(PRECISIONS)


def test_bytes_in_the_result_are_those_of_the_cost_model(finished: FinishedRun) -> None:
    deployment = load_deployment(finished.config, capture_reporter().reporter)
    costs = CostModel(deployment.facts)
    for record in (*finished.result.front, *finished.result.candidates):
        assert costs.bytes(SharePlan.from_dict(record.plan)) == record.bytes


def test_the_exported_bundle_holds_the_predicted_bytes(finished: FinishedRun) -> None:
    result = finished.result
    record = next(c for c in result.candidates if c.hash == result.chosen)
    bundle = load_bundle(finished.out / "bundle")
    assert total_bytes(unique_tensors(bundle)) == record.bytes
    assert any(tensor.dtype == torch.int8 for tensor in unique_tensors(bundle))
    other = next(r for r in result.front if r.hash != result.chosen)
    folder = finished.out / "other"
    export(finished.out, other.hash, folder, ExportRequest(), capture_reporter().reporter)
    assert total_bytes(unique_tensors(load_bundle(folder))) == other.bytes


def test_verifying_again_gives_the_same_numbers(finished: FinishedRun) -> None:
    result = finished.result
    inputs = VerificationInputs()
    again = verify(finished.out, [result.chosen], inputs, capture_reporter().reporter)
    (candidate,) = again.candidates
    before = next(c for c in result.candidates if c.hash == result.chosen)
    assert candidate.accuracy == before.accuracy


def test_the_exact_front_of_all_profiles_holds_that_of_the_study(finished: FinishedRun) -> None:
    captured = capture_reporter()
    exact = find_exact_front(finished.config, captured.reporter)
    assert "The study in tiny has found" in captured.text
    for record in finished.result.front:
        assert any(p.bytes <= record.bytes and p.proxy >= record.proxy - 1e-9 for p in exact.front)


def test_rounding_losses_are_measured_once(finished: FinishedRun) -> None:
    files = [*finished.config.cache_folder.rglob("rounding-*.json")]
    assert len(files) == 1
    sums = json.loads(files[0].read_text())["sums"]
    assert all(0 <= loss for loss in sums.values())
    assert sum(sums.values()) > 0


def test_a_champion_of_other_precisions_is_verified(finished: FinishedRun) -> None:
    deployment = load_deployment(finished.config, capture_reporter().reporter)
    owners = [Ref("a", stage) for stage in deployment.facts["a"].layout.stages if stage != "pool"]
    champion = SharePlan(
        precisions=tuple(
            [(owner, PRECISIONS[1 + k % 2]) for k, owner in enumerate(owners)]
            + [(replace(owner, model="b"), "int8") for owner in owners]
        )
    )
    config = finished.config.model_copy(update={"budget": "50%", "out": "out/champion"})
    make_folder(config.out_folder)
    result = run_without_logging(
        config, capture_reporter().reporter, PriorKnowledge(champion=champion)
    )
    assert champion.hash in {candidate.hash for candidate in result.candidates}


def test_a_run_without_precisions_is_as_before(tiny_run: FinishedRun) -> None:
    assert not any(plan.precisions for plan in plans_of(tiny_run))
    assert not [*tiny_run.config.cache_folder.rglob("rounding-*.json")]


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        (["int4"], "search.precision"),
        (["int8", "int8"], "name each precision once"),
        ("int8", "search.precision"),
    ],
)
def test_bad_precisions_are_refused(
    precision: object, message: str, tmp_path: Path, data: dict[str, Any]
) -> None:
    path = write_config(tmp_path, with_changes(data, {"search.precision": precision}))
    with pytest.raises(BadConfig, match=message):
        load_config(path)


def test_all_weights_in_int8_is_one_profile(tmp_path: Path, data: dict[str, Any]) -> None:
    changes = {"search.precision": ["int8"], "budget": "35%", "truth": {}}
    finished = run_config(write_config(tmp_path, with_changes(data, changes)))
    for plan in plans_of(finished):
        assert {precision for _, precision in plan.precisions} == {"int8"}
    assert CLASSIFIER in str(finished.config.models)


def test_the_smallest_plan_that_shares_nothing_is_verified_if_it_is_within_the_budget(
    weights: Weights, tmp_path: Path, finished: FinishedRun
) -> None:
    changes = {"search.precision": PRECISIONS, "budget": "90%", "search.trials": 60}
    changes["verify.candidates"] = 1
    data = with_changes(config_data(weights), changes)
    result = run_config(write_config(tmp_path, data)).result
    unshared = [c for c in result.candidates if not SharePlan.from_dict(c.plan).shares]
    by_precision = {a.precision: a.bytes for a in result.alternatives}
    assert min(c.bytes for c in unshared) <= by_precision["int8"]
    assert len(result.candidates) <= 2
    assert all(SharePlan.from_dict(c.plan).shares for c in finished.result.candidates)
