"""The search problem of networks that have their first stages in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny import CLASSIFIER, Weights, capture_reporter, run_config, with_changes, write_config

from search.config.loading import load_config
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import compute_similarities, observe, open_frames
from spaces.plan import IDENTITY, LINEAR, Share, SharePlan


def similarities(path: Path) -> tuple[dict[Share, float], str]:
    """Return the similarities of a config's shares, and what was printed on the way."""
    config, captured = load_config(path, []), capture_reporter()
    reporter = captured.reporter
    deployment = load_deployment(config, reporter)
    observed = observe(config, deployment, open_frames(config, reporter), reporter)
    values = compute_similarities(config, observed, config.search.adapter_specs, reporter)
    return values, captured.text


@pytest.mark.parametrize("metric", ["r2", "fidelity", "calibrated", "cka"])
def test_stages_with_the_same_weights_have_similarity_one_by_identity(
    metric: str, weights: Weights, data: dict[str, Any], tmp_path: Path
) -> None:
    first = str(weights(CLASSIFIER, 1))
    changes = {"models.b.weights": first, "search.metric": metric, "dtype": "float16"}
    values, printed = similarities(write_config(tmp_path, with_changes(data, changes)))
    same = {s: value for s, value in values.items() if s.donor.stage == s.recipient.stage}
    assert set(same.values()) == {1.0} and {s.adapter for s in same} == {IDENTITY}
    others = [share for share in values if share not in same]
    assert {share.adapter for share in others} == {LINEAR}
    assert f"  {len(same)} more are between stages with the same weights" in printed
    assert f"Similarity of {len(others)} legal shares" in printed


def test_networks_that_differ_from_a_stage_on_share_only_the_stages_before_it_exactly(
    weights: Weights, data: dict[str, Any], tmp_path: Path
) -> None:
    state = load_file(weights(CLASSIFIER, 1))
    name = next(name for name in state if name.startswith("blocks.2.") and "conv" in name)
    state[name] *= 1.5
    save_file(state, tmp_path / "tuned.safetensors")
    changes = {"models.b.weights": "tuned.safetensors"}
    values, _ = similarities(write_config(tmp_path, with_changes(data, changes)))
    by_identity = {s.recipient.stage for s in values if s.adapter == IDENTITY}
    assert by_identity == {"stem", "blocks.0", "blocks.1"}
    assert all(value == 1.0 for s, value in values.items() if s.adapter == IDENTITY)
    assert all(value < 1.0 for s, value in values.items() if s.adapter == LINEAR)


def test_networks_with_other_weights_have_the_similarities_of_the_metric_alone(
    data: dict[str, Any], tmp_path: Path
) -> None:
    values, printed = similarities(write_config(tmp_path, data))
    assert {share.adapter for share in values} == {LINEAR}
    assert "the same weights" not in printed


def test_a_run_of_two_copies_holds_one_backbone_and_keeps_all_quality(
    weights: Weights, data: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"models.b.weights": str(weights(CLASSIFIER, 1)), "budget": "70%"}
    done = run_config(write_config(tmp_path, with_changes(data, changes)))
    whole = max(done.result.front, key=lambda record: record.proxy)
    (share,) = SharePlan.from_dict(whole.plan).shares
    assert share.adapter == IDENTITY and share.donor.stage == share.recipient.stage
    assert whole.proxy == 1.0 and whole.saved_pct > 30
    # a smaller plan may give the same answers on the few frames of this run
    chosen = next(c for c in done.result.candidates if c.hash == done.result.chosen)
    assert chosen.bytes <= whole.bytes and set(chosen.fidelity.values()) == {1.0}
    assert chosen.kept["a"] == 1.0
