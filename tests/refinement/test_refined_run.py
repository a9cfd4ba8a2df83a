"""Runs that refine the maps of their candidates, on tiny networks and rendered frames."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import (
    CLASSIFIER,
    STREET,
    FinishedRun,
    Weights,
    capture_reporter,
    config_data,
    run_config,
    with_changes,
    write_config,
)

from search.data.frames import RenderedScenes
from search.deploy.export import ExportRequest
from search.evaluation.closeness import paired_gain
from search.pipelines.export import export
from search.pipelines.run import run_without_logging
from search.pipelines.run_steps.records import PriorKnowledge
from search.pipelines.verify import verify
from search.pipelines.verify_inputs import VerificationInputs
from search.report.plan_diff import describe_difference
from search.results.refinement import RefinementRecord, describe_refinement
from search.results.search_result import CandidateRecord
from search.utils.files import make_folder
from spaces.bundle import load_bundle
from spaces.model_spec import ModelSpec
from spaces.plan import SharePlan
from spaces.stages import total_bytes, unique_tensors
from spaces.zoo import load_model


@torch.no_grad()
def decisive(path: Path, folder: Path) -> str:
    """Return a file with the same network, whose answers differ from frame to frame."""
    model = load_model(ModelSpec("m", CLASSIFIER, str(path), 7, (64, 64), "squash"))
    scenes = RenderedScenes(STREET, 16)
    logits = model(model.prepare_frames([scenes[k] for k in range(16)]))
    tensors, factor = load_file(path), 4 / logits.std(0).mean()
    tensors["classifier.weight"] *= factor
    tensors["classifier.bias"] = factor * (tensors["classifier.bias"] - logits.mean(0))
    save_file(tensors, folder / path.name)
    return str(folder / path.name)


@pytest.fixture(scope="module")
def finished(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Return one run with refined candidates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("refined")
        changes = {"verify.refine": True, "frames.count": 60, "budget": "70%"}
        data = with_changes(config_data(weights), changes)
        for model in data["models"].values():
            model["weights"] = decisive(Path(model["weights"]), folder)
        return run_config(write_config(folder, data))


def kept_candidate(finished: FinishedRun) -> CandidateRecord:
    """Return a candidate with refined maps."""
    first: CandidateRecord = next(c for c in finished.result.candidates if c.refinement_text)
    return first


def test_a_refined_plan_that_is_closer_is_a_candidate_of_its_own(finished: FinishedRun) -> None:
    result = finished.result
    candidates = {c.hash: c for c in result.candidates}
    assert len(result.refinements) == 3
    for record in result.refinements:
        plan = candidates[record.plan]
        assert (record.refined in candidates) == record.is_kept
        assert record.gain[0] == pytest.approx(record.closeness - record.closed_form)
        assert record.gain[1] <= record.gain[0] <= record.gain[2]
        if record.is_kept:
            refined = candidates[record.refined]
            assert (refined.bytes, refined.macs) == (plan.bytes, plan.macs)
            assert SharePlan.from_dict(refined.plan).in_closed_form().hash == record.plan
            assert refined.hash in result.latency_ms
    assert any(record.is_kept for record in result.refinements)


def test_the_report_tells_what_was_refined(finished: FinishedRun) -> None:
    page = unescape((finished.out / "report.html").read_text(encoding="utf-8"))
    for record in finished.result.refinements:
        assert describe_refinement(record).removeprefix("plan ") in page
    assert page.count('<span class="mark">refined maps</span>') == sum(
        record.is_kept for record in finished.result.refinements
    )


def test_the_bundle_of_a_refined_plan_holds_its_maps(finished: FinishedRun) -> None:
    record = kept_candidate(finished)
    closed = SharePlan.from_dict(record.plan).in_closed_form()
    folders = {name: finished.out / name for name in ("refined", "closed")}
    for plan, folder in zip((record.hash, closed.hash), folders.values(), strict=True):
        export(finished.out, plan, folder, ExportRequest(), capture_reporter().reporter)
    bundles = [load_bundle(folder) for folder in folders.values()]
    assert [total_bytes(unique_tensors(bundle)) for bundle in bundles] == [record.bytes] * 2
    frames = [np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)]
    recipient = SharePlan.from_dict(record.plan).shares[0].recipient.model
    answers = [bundle(frames)[recipient] for bundle in bundles]
    assert not np.allclose(*answers)
    card = (folders["refined"] / "CARD.md").read_text(encoding="utf-8")
    assert "fitted and refined on" in card
    assert "fitted on" in (folders["closed"] / "CARD.md").read_text(encoding="utf-8")


def test_verifying_a_refined_plan_again_gives_the_same_numbers(finished: FinishedRun) -> None:
    record = kept_candidate(finished)
    reporter = capture_reporter().reporter
    again = verify(finished.out, [record.hash], VerificationInputs(), reporter)
    (candidate,) = again.candidates
    assert candidate.accuracy == record.accuracy and candidate.fidelity == record.fidelity


def test_a_refined_champion_is_verified_in_closed_form_first(finished: FinishedRun) -> None:
    champion = SharePlan.from_dict(kept_candidate(finished).plan)
    config = finished.config.model_copy(update={"out": "out/champion"})
    make_folder(config.out_folder)
    prior = PriorKnowledge(champion=champion)
    result = run_without_logging(config, capture_reporter().reporter, prior)
    hashes = [candidate.hash for candidate in result.candidates]
    assert {champion.hash, champion.in_closed_form().hash} <= {*hashes}


def test_the_difference_of_two_plans_names_the_refinement() -> None:
    plan = SharePlan.from_dict(
        {"version": 1, "shares": [{"donor": "a:s", "recipient": "b:s", "adapter": "linear"}]}
    )
    refined = replace(plan, refined=True)
    assert describe_difference(refined, plan) == ["the linear maps are refined"]
    assert describe_difference(plan, refined) == ["the linear maps are no longer refined"]


def test_a_gain_is_kept_only_beyond_its_interval() -> None:
    before, rng = np.full(200, 0.5), np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 200)
    for shift, is_kept in ((0.0, False), (0.05, True), (-0.05, False)):
        gain = paired_gain(before, before + noise + shift, "frames")
        assert RefinementRecord("p", "r", 0.5, 0.5, gain).is_kept == is_kept
        assert paired_gain(before, before + noise + shift, "frames") == gain
