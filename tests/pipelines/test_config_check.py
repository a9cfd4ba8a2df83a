"""`check` finds what would end a run, without running it, and names all of it at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import Weights, config_data, save_noise_image, with_changes, write_config

from search.cli.main import main


@pytest.fixture
def data(weights: Weights) -> dict[str, Any]:
    return config_data(weights)


def check(folder: Path, data: dict[str, Any], *options: str) -> Result:
    return CliRunner().invoke(main, ["check", str(write_config(folder, data)), *options])


def items(folder: Path, data: dict[str, Any]) -> dict[str, dict[str, str]]:
    answer = check(folder, data, "--json")
    report = json.loads(answer.stdout)
    assert report["passed"] is (answer.exit_code == 0)
    return {item["subject"]: item for item in report["checks"]}


def test_a_complete_config_passes_and_nothing_is_written(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = check(tmp_path, data)
    assert answer.exit_code == 0, answer.output
    assert "Everything that a run needs is there." in answer.output
    created = set(tmp_path.rglob("*")) - set(before)
    names = {path.name for path in created if path.suffix != ".lock"}
    assert names == {"config.yaml", "out", "mlflow.db"}
    assert set(items(tmp_path, data)) == {
        "device", "models.a", "models.b", "frames", "truth.a", "sharing", "search space",
        "budget", "memory", "disk", "storage", "mlflow",
    }  # fmt: skip


def test_every_fault_is_named_at_once(tmp_path: Path, data: dict[str, Any]) -> None:
    changes = {
        "models.a.weights": "no-such-file.pth",
        "frames": {"folder": "no-such-folder"},
        "storage": "study.log",
        "mlflow.tracking_uri": "http://127.0.0.1:9",
    }
    (tmp_path / "study.log").write_text("no journal")
    report = items(tmp_path, with_changes(data, changes))
    faults = {subject: item["text"] for subject, item in report.items() if item["status"] != "ok"}
    assert "no-such-file.pth: there is no such file" in faults["models.a"]
    assert "no-such-folder: there is no such folder" in faults["frames"]
    assert faults["truth.a"] == "not checked: needs the model and the frames"
    assert faults["search space"] == "not checked: needs all models"
    assert "is another file, not a journal of trials" in faults["storage"]
    assert "cannot be reached" in faults["mlflow"]
    assert set(faults) == {
        "models.a", "frames", "truth.a", "search space", "budget", "memory", "storage", "mlflow",
    }  # fmt: skip
    assert report["models.b"]["status"] == "ok"


def test_a_budget_below_the_smallest_plan_is_a_problem_with_that_size(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    report = items(tmp_path, with_changes(data, {"budget": 1000}))
    assert report["budget"]["status"] == "problem"
    assert "no plan is smaller than" in report["budget"]["text"]


def test_a_budget_that_only_fewer_bits_reach_is_no_problem(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    report = items(tmp_path, with_changes(data, {"budget": 1000}))
    (in_float32,) = re.findall(r"no plan is smaller than .*\((\S+)%\)", report["budget"]["text"])
    half = f"{float(in_float32) / 2}%"
    assert items(tmp_path, with_changes(data, {"budget": half}))["budget"]["status"] == "problem"
    with_choice = with_changes(data, {"budget": half, "search.precision": ["float32", "int8"]})
    assert items(tmp_path, with_choice)["budget"]["status"] == "ok"


def test_labels_of_classes_that_the_model_lacks_are_a_problem(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    for number in range(12):
        save_noise_image(tmp_path / "labelled" / f"{number:03d}" / "picture.png", number)
    changed = with_changes(data, {"truth": {"a": {"image_folder": "labelled"}}})
    text = items(tmp_path, changed)["truth.a"]["text"]
    assert "it has only 7 classes" in text or "7 classes" in text


def test_networks_that_see_different_parts_of_a_frame_get_the_setting_that_lets_them_share(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    changed = with_changes(data, {"models.a.fit": "crop", "models.b.fit": "letterbox"})
    assert "set `fit: squash`" in items(tmp_path, changed)["sharing"]["text"]


def test_the_note_on_a_checkpoint_is_shown(tmp_path: Path, data: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import load_file

    state = load_file(data["models"]["a"]["weights"])
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(wrapped, tmp_path / "last.pth.tar")
    changed = with_changes(data, {"models.a.weights": "last.pth.tar"})
    text = items(tmp_path, changed)["models.a"]["text"]
    assert text.endswith("state_dict taken, prefix 'module.' stripped")
