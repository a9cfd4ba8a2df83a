"""Transformers and CNNs share with each other, in a run and in everything that it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from measured_activations import check_activations
from tiny import FinishedRun, observe, run_config, shares_in, write_config

from search.deploy.export import ExportRequest
from search.pipelines.export import export
from search.statistics.observed import Observed
from search.utils.reporter import SILENT
from spaces.adapters import LinearMap
from spaces.bundle import load_bundle
from spaces.cost import CostModel
from spaces.merged import LinearMaps, MergedModel, prepare_inputs
from spaces.model_spec import ModelSpec
from spaces.plan import LINEAR, Ref, Share, SharePlan
from spaces.stages import total_bytes, unique_tensors
from spaces.zoo import load_model

ARCHS = {
    "vit": "timm/test_vit",
    "cnn": "timm/test_efficientnet",
    "last": "timm/test_convnext",
}


@pytest.fixture(scope="module")
def kinds() -> Observed:
    """Return the statistics of a transformer, two copies of it, and two CNNs."""
    archs = {**ARCHS, "copy": ARCHS["vit"]}
    specs = [ModelSpec(n, arch, "none", 7, (64, 64), "squash") for n, arch in archs.items()]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        models = {spec.name: load_model(spec) for spec in specs}
    models["copy"].load_state_dict(models["vit"].state_dict())
    return observe(models)


def linear(donor: str, recipient: str) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor), LINEAR)


def test_a_transformer_and_a_cnn_may_share_in_both_directions(kinds: Observed) -> None:
    shares = shares_in(kinds)
    assert linear("cnn:blocks.2", "vit:blocks.3") in shares
    assert linear("vit:blocks.3", "cnn:blocks.3") in shares
    assert linear("last:stages.2", "vit:blocks.0") in shares


@torch.no_grad()
def test_a_map_between_equal_transformers_keeps_their_answers(kinds: Observed) -> None:
    """The map is fitted like any other: it must find the class token and all positions."""
    models, facts = kinds.deployment.models, kinds.deployment.facts
    plan = SharePlan((linear("copy:blocks.2", "vit:blocks.2"),))
    maps = kinds.maps_for([plan])
    inputs = prepare_inputs(models, [kinds.frames[k] for k in range(4)])
    expected = models["vit"](inputs["vit"])

    def error(maps: LinearMaps) -> float:
        merged = MergedModel(models, facts, plan, maps)
        answers = merged({name: inputs[name] for name in merged.inputs_read})
        return float((answers["vit"] - expected).norm() / expected.norm())

    fitted = error(maps)
    assert fitted < 0.1  # what the ridge of the fit leaves
    half = facts["vit"].stage("blocks.2").channels // 2
    without_class_token = {
        share: LinearMap(fit.weight * (torch.arange(2 * half) < half)[:, None], fit.bias)
        for share, fit in maps.items()
    }
    assert error(without_class_token) > 3 * fitted


@pytest.mark.parametrize(
    "share",
    [
        linear("cnn:blocks.3", "vit:blocks.4"),
        linear("vit:blocks.4", "cnn:conv_head"),
        linear("last:stages.3", "vit:pool"),
        linear("vit:blocks.1", "last:stages.2"),
    ],
    ids=str,
)
@torch.no_grad()
def test_merged_kinds_hold_the_predicted_bytes_and_activations_and_answer_for_any_number_of_frames(
    kinds: Observed, share: Share
) -> None:
    models, facts = kinds.deployment.models, kinds.deployment.facts
    plan = SharePlan((share,))
    merged = MergedModel(models, facts, plan, kinds.maps_for([plan]))
    assert CostModel(facts).bytes(plan) == total_bytes(unique_tensors(merged))
    check_activations(models, facts, plan, kinds.maps_for([plan]))
    inputs = prepare_inputs(models, [kinds.frames[k] for k in range(5)])
    together = merged(inputs)
    alone = merged({name: values[3:4] for name, values in inputs.items()})
    for name, answer in together.items():
        assert answer.shape == (5, 7)
        torch.testing.assert_close(answer[3:4], alone[name], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Return a run of a transformer and two CNNs, one of them of torchvision."""
    archs = {"vit": ARCHS["vit"], "cnn": "torchvision/shufflenet_v2_x0_5", "last": ARCHS["last"]}
    section = {"weights": "none", "num_classes": 7, "size": 64, "fit": "squash"}
    data = {
        "name": "kinds",
        "budget": "60%",
        "models": {name: {"arch": arch, **section} for name, arch in archs.items()},
        "frames": {"scenes": {"seed": 1}, "count": 28},
        "statistics": {"batch": 8, "positions": 8},
        "search": {"trials": 60, "metric": "r2"},
        "verify": {"fidelity_frames": 12, "shortlist": 6, "candidates": 3, "batch": 12},
    }
    return run_config(write_config(tmp_path_factory.mktemp("kinds"), data))


def test_a_run_finds_shares_between_kinds(finished: FinishedRun) -> None:
    pairs = {
        (share.donor.model, share.recipient.model)
        for record in finished.result.front
        for share in SharePlan.from_dict(record.plan).shares
    }
    assert pairs & {("vit", "cnn"), ("cnn", "vit"), ("vit", "last"), ("last", "vit")}


def test_the_chosen_plan_exports_as_a_bundle_and_a_graph_with_its_answers(
    finished: FinishedRun, tmp_path: Path
) -> None:
    """`export` compares the answers of both with the merged model's before it writes them."""
    frames = np.random.default_rng(0).integers(0, 255, (3, 80, 90, 3), dtype=np.uint8)
    folder = tmp_path / "bundle"
    export(finished.config.out_folder, None, folder, ExportRequest(["onnx"]), SILENT)
    assert (folder / "model.onnx").exists()
    answers = load_bundle(folder)(frames)
    shapes = {name: torch.as_tensor(answer).shape for name, answer in answers.items()}
    assert shapes == dict.fromkeys(finished.config.models, (3, 7))
