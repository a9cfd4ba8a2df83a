"""`export` and `bench-bundle`: from a finished run to a folder that can be deployed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from tiny import FinishedRun, Weights, config_data, run_config, with_changes, write_config

import spaces
from search.cli.main import main
from search.data.frames import RenderedScenes
from search.data.synthetic.scenes import SCENE_CLASSES, SceneSettings
from search.results.measured import DeviceMeasurement
from search.utils.records import load_record
from spaces.bundle import load_bundle


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    formats = ("--format", "onnx", "--format", "triton")
    result = command("export", tiny_run.out, "--to", folder, *formats)
    assert result.exit_code == 0, result.output
    assert (
        "bytes of tensors" in result.output and "model.onnx: its answers differ" in result.output
    )
    return folder


def test_a_bundle_and_its_card_have_the_chosen_plan(bundle: Path, tiny_run: FinishedRun) -> None:
    chosen = tiny_run.result.chosen
    record = next(c for c in tiny_run.result.candidates if c.hash == chosen)
    assert json.loads((bundle / "plan.json").read_text()) == record.plan
    card = (bundle / "CARD.md").read_text()
    assert f"Plan `{chosen}`" in card and f"{record.bytes:,} bytes" in card
    assert f"{100 * record.accuracy['a']['top1']:.1f}%" in card
    assert tiny_run.result.frames["hash"] in card
    assert str(tiny_run.config.base) not in card
    assert sorted(path.name for path in bundle.iterdir()) == [
        "CARD.md", "bench_onnx.py", "bundle.json", "example.py", "example_onnx.py", "model.onnx",
        "plan.json", "triton", "weights.safetensors",
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o444 for path in bundle.iterdir()} == {0o444}


def test_the_examples_answer_without_the_search(bundle: Path, tmp_path: Path) -> None:
    """Both examples give the same answer in a new process, and import no module of the search.

    They call classes by their names, if these are known.
    """
    description = json.loads((bundle / "bundle.json").read_text())
    names = [f"kind {k}" for k in range(7)]
    bundle = Path(shutil.copytree(bundle, tmp_path / "named"))
    (bundle / "bundle.json").write_text(json.dumps({**description, "classes": {"a": names}}))
    frame = RenderedScenes(SceneSettings(seed=5), 1)[0]
    Image.fromarray(frame).save(tmp_path / "frame.png")
    answer = load_bundle(bundle)(frame)["a"]
    assert not isinstance(answer, list)
    best = f"kind {int(answer.argmax())} "
    watch = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])\n" + (
        "assert not {'search', 'optuna', 'mlflow'} & set(sys.modules)"
    )
    for example in ("example.py", "example_onnx.py"):
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", watch, str(bundle / example), "frame.png"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert len(lines) == 2 and lines[0].startswith(f"frame.png: a: {best}")
        assert lines[1].startswith("frame.png: b: class ")


def test_the_classes_of_rendered_scenes_have_their_names(bundle: Path) -> None:
    assert load_bundle(bundle).classes == {"a": SCENE_CLASSES}  # b has no ground truth


def test_the_bench_program_measures_the_bundle_for_its_run(
    bundle: Path, tiny_run: FinishedRun
) -> None:
    program = [sys.executable, str(bundle / "bench_onnx.py"), "--frames", "1", "--threads", "1"]
    finished = subprocess.run(program, capture_output=True, text=True, check=True)
    measurement = load_record(DeviceMeasurement, finished.stdout, "bench_onnx.py")
    description = (bundle / "bundle.json").read_bytes()
    assert measurement.bundle == hashlib.sha256(description).hexdigest()
    assert measurement.plan == tiny_run.result.chosen
    assert measurement.whole.milliseconds == measurement.graphs["model"]


def test_the_model_repository_holds_the_whole_merged_model(bundle: Path) -> None:
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.glob("triton/**/*.*"))
    assert names == ["triton/merged/1/model.onnx", "triton/merged/config.pbtxt"]
    assert "a model repository with merged" in (bundle / "CARD.md").read_text()
    whole, copied = (onnx.load(bundle / name).graph for name in ("model.onnx", names[0]))
    assert copied.SerializeToString() == whole.SerializeToString()


def test_spaces_exports_load_bundle() -> None:
    assert spaces.load_bundle is load_bundle
    with pytest.raises(AttributeError, match="no attribute 'bundles'"):
        spaces.bundles  # noqa: B018


def test_any_plan_of_the_front_can_replace_an_older_bundle(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    records = sorted(tiny_run.result.front, key=lambda r: r.bytes)
    for record in (records[0], records[-1]):
        result = command("export", tiny_run.out, "--plan", record.hash[:9], "--to", tmp_path / "b")
        assert result.exit_code == 0, result.output
        assert f"{record.bytes:,} bytes of tensors" in result.output
        plan = json.loads((tmp_path / "b" / "plan.json").read_text())
        assert plan == record.plan
    assert os.listdir(tmp_path) == ["b"]


def test_an_export_that_is_refused_is_one_line_and_changes_nothing(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    notes_folder = tmp_path / "mine"
    notes_folder.mkdir()
    (notes_folder / "notes.txt").write_text("keep")
    for arguments, message in (
        ((tiny_run.out, "--to", notes_folder), "holds other files"),
        ((tiny_run.out, "--to", notes_folder / "notes.txt"), "holds other files"),
        ((tiny_run.out, "--to", tmp_path / "new", "--plan", "zzz"), "no plan with a hash"),
        ((tmp_path, "--to", tmp_path / "new"), "no result.json"),
    ):
        result = command("export", *arguments)
        (line,) = result.stderr.splitlines()
        assert result.exit_code == 1 and line.startswith("merge-search: ") and message in line
    assert (notes_folder / "notes.txt").read_text() == "keep" and os.listdir(tmp_path) == ["mine"]


def test_bench_bundle_measures_the_same_bytes_in_three_ways(
    bundle: Path, tiny_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.deploy.benchmark.ROUNDS", 1)
    result = command("bench-bundle", bundle, "--run", tiny_run.out)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["predicted_bytes"] == report["in_file_bytes"] == report["merged"]["tensor_bytes"]
    assert report["unmerged"]["tensor_bytes"] == report["libraries"]["tensor_bytes"]
    assert report["unmerged"]["tensor_bytes"] > report["predicted_bytes"]
    assert all(report[kind]["milliseconds"] > 0 for kind in ("merged", "unmerged", "libraries"))
    assert "resident: equal" in result.output


def test_bench_bundle_without_the_models_weights_measures_the_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.deploy.benchmark.ROUNDS", 1)
    result = command("bench-bundle", bundle)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "were not measured: a: " in text and "with --run, so that its config says" in text
    assert "unmerged" not in json.loads(result.stdout.splitlines()[-1])


def test_half_precision_plans_are_costed_verified_and_exported(
    weights: Weights, tmp_path: Path, tiny_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = with_changes(config_data(weights), {"dtype": "float16", "search.trials": 12})
    half = run_config(write_config(tmp_path, data))
    assert 0.5 < half.result.unmerged_bytes / tiny_run.result.unmerged_bytes < 0.56
    assert half.result.candidates and half.result.baseline["a"]["top1"] >= 0
    result = command("export", half.out, "--to", tmp_path / "b")
    assert result.exit_code == 0, result.output
    record = next(c for c in half.result.candidates if c.hash == half.result.chosen)
    assert f"{record.bytes:,} bytes of tensors" in result.output
    frame = RenderedScenes(SceneSettings(seed=5), 1)[0]
    answers = load_bundle(tmp_path / "b")(frame)
    for name in ("a", "b"):
        answer = answers[name]
        assert isinstance(answer, torch.Tensor) and answer.isfinite().all()
