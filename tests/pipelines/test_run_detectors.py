"""A run with a two-stage detector of torchvision, and what it exports of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from detectors import library_detector
from safetensors.torch import save_file
from tiny import CLASSIFIER, FinishedRun, Weights, run_config, write_config

from search.cli.main import main
from search.data.frames import RenderedScenes
from search.data.synthetic.scenes import SceneSettings
from spaces.bundle import load_bundle
from spaces.plan import SharePlan


@pytest.fixture(scope="module")
def finished(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    section = {"num_classes": 7, "size": 128, "fit": "squash"}
    name, folder = "fasterrcnn_mobilenet_v3_large_320_fpn", tmp_path_factory.mktemp("stages")
    state = library_detector(name, 7).state_dict()
    state["roi_heads.box_predictor.cls_score.weight"] *= 5  # confident of some boxes
    save_file(state, folder / "det.safetensors")
    path = str(folder / "det.safetensors")
    data = {
        "name": "stages",
        "budget": "96%",
        "models": {
            "cls": {"arch": CLASSIFIER, "weights": str(weights(CLASSIFIER, 1)), **section},
            "det": {"arch": f"torchvision/{name}", "weights": path, **section},
        },
        "frames": {"scenes": {"seed": 1}, "count": 20},
        "statistics": {"batch": 6, "positions": 8},
        "search": {"trials": 30, "metric": "r2", "precision": []},
        "verify": {"fidelity_frames": 6, "shortlist": 3, "candidates": 2, "batch": 6},
    }
    return run_config(write_config(folder, data))


def test_the_search_shares_between_a_classifier_and_a_two_stage_detector(
    finished: FinishedRun,
) -> None:
    shares = [s for r in finished.result.front for s in SharePlan.from_dict(r.plan).shares]
    assert {"cls", "det"} in [{s.donor.model, s.recipient.model} for s in shares]
    fidelity = [c.fidelity["det"] for c in finished.result.candidates]
    assert all(value is not None and 0 <= value <= 1 for value in fidelity)


def test_a_bundle_without_a_graph_is_written_and_says_why(
    finished: FinishedRun, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    arguments = ["export", str(finished.out), "--to", str(bundle), "--int8"]
    result = CliRunner().invoke(main, [*arguments, "--format", "onnx", "--format", "program"])
    assert result.exit_code == 0, result.output
    reason = "det: two-stage detectors are not exported as a graph"
    output, card = " ".join(result.output.split()), (bundle / "CARD.md").read_text()
    assert f"without model.onnx and model.pt2: {reason}" in output
    assert f"without model_int8.onnx: {reason}" in output
    assert card.count("two-stage detectors are not exported as a graph") == 2
    assert {path.name for path in bundle.iterdir()} == {
        "CARD.md", "bundle.json", "example.py", "plan.json", "weights.safetensors",
    }  # fmt: skip
    frame = RenderedScenes(SceneSettings(seed=5), 1)[0]
    assert set(load_bundle(bundle)(frame)) == {"cls", "det"}
