"""Networks of every task in one run, with ground truth, and in everything that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import FinishedRun, run_config, write_config

from search.data.frames import cached_scene
from search.data.synthetic.scenes import SceneSettings
from search.deploy.export import ExportRequest
from search.pipelines.export import export
from search.pipelines.verify import verify
from search.pipelines.verify_inputs import VerificationInputs
from search.utils.reporter import SILENT
from spaces.bundle import load_bundle
from spaces.bundle_files import bundle_id
from spaces.model_spec import ModelSpec
from spaces.plan import SharePlan
from spaces.zoo import load_model

MODELS: dict[str, dict[str, Any]] = {
    "cls": {"arch": "timm/test_efficientnet", "num_classes": 7, "size": 64, "fit": "squash"},
    "det": {"arch": "python:own_networks:detector", "fit": "squash"},
    "emb": {"arch": "timm/test_efficientnet", "task": "embedding", "size": 64, "fit": "squash"},
    "seg": {"arch": "python:own_networks:segmentation", "fit": "squash"},
    "depth": {"arch": "python:own_networks:depth", "fit": "squash"},
}
SCENES = SceneSettings(seed=9, width=96, height=72)
LABELLED = 16


def write_labels(folder: Path) -> dict[str, Any]:
    """Write the same frames with labels for each task; return the section `truth`."""
    rows = ["path,label_index"]
    boxes: list[dict[str, Any]] = []
    for k in range(LABELLED):
        scene, name = cached_scene(SCENES, k), f"{k:02}.png"
        for place in ("images", f"identities/{k % 4}", "masks"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(scene.image)
        picture.save(folder / "images" / name)
        picture.save(folder / "identities" / f"{k % 4}" / name)
        brightness = scene.image.mean(2)
        levels = np.searchsorted(np.quantile(brightness, [0.3, 0.6]), brightness)
        Image.fromarray(levels.astype(np.uint8)).save(folder / "masks" / name)
        rows.append(f"images/{name},{scene.label}")
        boxes += [
            {"id": len(boxes) + n, "image_id": k, "category_id": 1 + int(kind > 2),
             "bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": 0}
            for n, (box, kind) in enumerate(zip(scene.boxes, scene.classes, strict=True))
        ]  # fmt: skip
    (folder / "labels.csv").write_text("\n".join(rows))
    coco = {
        "images": [
            {"id": k, "file_name": f"{k:02}.png", "height": 72, "width": 96}
            for k in range(LABELLED)
        ],
        "categories": [{"id": 1, "name": "light"}, {"id": 2, "name": "heavy"}],
        "annotations": boxes,
    }
    (folder / "instances.json").write_text(json.dumps(coco))
    images = str(folder / "images")
    return {
        "cls": {"csv": str(folder / "labels.csv")},
        "det": {"coco": str(folder / "instances.json"), "images": images},
        "emb": {"image_folder": str(folder / "identities")},
        "seg": {"masks": str(folder / "masks"), "images": images, "classes": ["dark", "grey"]},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("tasks")
    data = {
        "name": "tasks",
        "budget": "60%",
        "models": {name: {**section, "weights": "none"} for name, section in MODELS.items()},
        "frames": {"scenes": {"seed": 1}, "count": 28},
        "truth": write_labels(folder / "labels"),
        "statistics": {"batch": 8, "positions": 8},
        "search": {"trials": 80, "metric": "r2"},
        "verify": {"fidelity_frames": 12, "shortlist": 6, "candidates": 3, "batch": 12},
    }
    return run_config(write_config(folder, data))


def test_every_model_is_scored_by_its_task(finished: FinishedRun) -> None:
    scores = {name: set(scores) for name, scores in finished.result.baseline.items()}
    assert scores["cls"] == {"top1", "top5"}
    assert scores["emb"] == {"recall1", "recall5"}
    assert scores["seg"] == {"miou", "pixels", "iou_dark", "iou_grey", "iou_2"}
    assert "map" in scores["det"] and "depth" not in scores
    assert {name: m.task for name, m in finished.result.models.items()} == {
        "cls": "classification",
        "det": "detection",
        "emb": "embedding",
        "seg": "segmentation",
        "depth": "dense",
    }


def test_candidates_have_the_fidelity_and_the_scores_of_every_model(finished: FinishedRun) -> None:
    for record in finished.result.candidates:
        assert set(record.fidelity) == set(MODELS)
        for name, unmerged in finished.result.baseline.items():
            assert set(record.accuracy[name]) == set(unmerged)
            assert set(record.intervals[name]) == set(unmerged)


def test_networks_of_different_tasks_share_stages(finished: FinishedRun) -> None:
    tasks = {name: model.task for name, model in finished.result.models.items()}
    pairs = {
        (tasks[share.donor.model], tasks[share.recipient.model])
        for record in finished.result.front
        for share in SharePlan.from_dict(record.plan).shares
    }
    assert len(pairs) > 1 and any(donor != recipient for donor, recipient in pairs)


def test_the_report_and_the_console_name_the_scores(finished: FinishedRun) -> None:
    report = (finished.config.out_folder / "report.html").read_text(encoding="utf-8")
    for name in ("mIoU", "recall@1", "top-1", "mAP"):
        assert name in report


def test_the_bundle_and_its_graph_answer_every_task(finished: FinishedRun, tmp_path: Path) -> None:
    """`export` compares the answers of both with the merged model's before it writes them."""
    folder = tmp_path / "bundle"
    export(finished.config.out_folder, None, folder, ExportRequest(["onnx"]), SILENT)
    bundle = load_bundle(folder)
    frames = [np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)] * 3
    answers = bundle(frames)
    assert answers["cls"].shape == (3, 7) and answers["emb"].shape[0] == 3
    assert [mask.shape for mask in answers["seg"]] == [(80, 90)] * 3
    assert len(answers["det"]) == 3 and answers["depth"].shape == (3, 1, 8, 8)
    assert all(bundle.describe(name, answer) for name, answer in answers.items() if name != "det")
    spec = json.loads((folder / "bundle.json").read_text())["models"]
    assert bundle.classes == {"det": ("", "light", "heavy"), "seg": ("dark", "grey")}
    assert finished.result.bundle == bundle_id(folder) == bundle_id(finished.out / "bundle")
    assert spec["emb"]["task"] == "embedding" and "task" not in spec["cls"]


def test_new_labels_are_given_by_the_format_of_the_task(
    finished: FinishedRun, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    write_labels(labels)
    given = VerificationInputs.parse(
        [f"emb={labels / 'identities'}", f"seg={labels / 'masks'}"],
        [f"seg={labels / 'images'}"], [], None,
    )  # fmt: skip
    result = verify(finished.config.out_folder, [], given, SILENT)
    assert set(result.baseline) == {"emb", "seg"}


@pytest.mark.parametrize("name", ["timm/test_efficientnet", "timm/test_vit"])
@torch.no_grad()
def test_an_embedding_of_timm_is_its_network_without_the_classifier(
    name: str, tmp_path: Path
) -> None:
    """A checkpoint loads with the classifier that it was trained with, or without one."""
    import timm

    torch.manual_seed(2)
    for classes in (11, 0):
        net: Any = timm.create_model(name.removeprefix("timm/"), num_classes=classes).eval()
        torch.save(net.state_dict(), tmp_path / "weights.pth")
        spec = ModelSpec(
            "emb", name, str(tmp_path / "weights.pth"), classes or None, task="embedding"
        )
        model = load_model(spec)
        inputs = model.example_input()
        expected = net.forward_head(net.forward_features(inputs), pre_logits=True)
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
