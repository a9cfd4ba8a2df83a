"""Commands as a user sees them: help, one-line errors, exit codes, files."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from commands import start_forked
from labelled import Labelled, write_labels
from PIL import Image
from tiny import FinishedRun, Weights, config_data, with_changes, write_config

from search.cli.main import main

COMMANDS = [
    [], ["bench-bundle"], ["check"], ["correlate"], ["exact"], ["export"], ["fidelity"],
    ["fidelity", "measure"], ["fidelity", "merge"], ["run"], ["similarity"],
    ["split"], ["serve"],
    ["plan"], ["plan", "show"], ["promote"], ["rollback"], ["stats"], ["stats", "measure"],
    ["stats", "merge"], ["sync"], ["ui"], ["verify"], ["watch"], ["worker"], ["history"],
]  # fmt: skip


@pytest.fixture
def data(weights: Weights) -> dict[str, Any]:
    changes = {"search.trials": 5, "verify.shortlist": 2, "verify.candidates": 1}
    return with_changes(config_data(weights), changes)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def one_line(result: Result, code: int) -> str:
    """Return the one line of an error message, and check the exit code."""
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("merge-search: ") and "Traceback" not in result.output
    return line


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_a_help_text(command: list[str], flag: str) -> None:
    result = call(*command, flag)
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.startswith("Usage: ") and len(result.stdout.splitlines()) > 5


def test_every_command_is_tested() -> None:
    commands: set[tuple[str, ...]] = {(name,) for name in main.commands}
    for name, command in main.commands.items():
        commands |= {(name, inner) for inner in getattr(command, "commands", ())}
    assert commands == {tuple(command) for command in COMMANDS if command}


def test_the_version_is_printed() -> None:
    result = call("--version")
    assert result.exit_code == 0 and "version" in result.stdout


def test_the_installed_command_helps_and_fails_in_one_line(tmp_path: Path) -> None:
    command = shutil.which("merge-search", path=str(Path(sys.executable).parent))
    assert command
    help_run = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=600)
    assert help_run.returncode == 0 and "merge-search run" in help_run.stdout
    path = tmp_path / "gone.yaml"
    failed_run = subprocess.run(
        [command, "run", path], capture_output=True, text=True, timeout=600
    )
    (line,) = failed_run.stderr.splitlines()
    assert failed_run.returncode == 1 and f"config {path}: cannot be read" in line


def test_run_writes_its_files_and_prints_the_next_commands(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    path = write_config(tmp_path, data)
    result = call("run", path, "--set", "search.trials=6", "--set", "name=other")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out" / "other"
    assert (out / "result.json").is_file()
    (chosen,) = (out / "plans").glob("*.json") if len([*(out / "plans").iterdir()]) == 1 else [
        p for p in (out / "plans").glob("*.json") if f"plans/{p.name}" in result.stdout
    ]  # fmt: skip
    assert f"merge-search plan show {chosen}" in result.stdout
    assert f"merge-search ui {path}" in result.stdout
    assert "Warning" not in result.stderr


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"budget": "65 parrots"}, 1, "budget: "),
        ({"colour": 1}, 1, "colour: unknown key"),
        ({"models.a.weights": "gone.pth"}, 1, "gone.pth: there is no such file"),
        ({"frames": {"folder": "gone"}}, 1, "no such folder"),
        ({"budget": "1 kB"}, 2, "the smallest reachable is"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    tmp_path: Path, data: dict[str, Any], changes: dict[str, Any], code: int, message: str
) -> None:
    result = call("run", write_config(tmp_path, with_changes(data, changes)))
    assert message in one_line(result, code)


def test_a_bad_override_is_a_one_line_error(tmp_path: Path, data: dict[str, Any]) -> None:
    path = write_config(tmp_path, data)
    assert "--set budget: write it as" in one_line(call("run", path, "--set", "budget"), 1)


def test_an_unreachable_tracker_gives_exit_code_3_and_keeps_the_result(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret-word@127.0.0.1:9")
    result = call("run", write_config(tmp_path, data))
    message = one_line(result, 3)
    assert "everything is kept in" in message and "merge-search sync " in message
    assert "s3cret-word" not in result.output
    assert (tmp_path / "out" / "tiny" / "result.json").is_file()


def test_similarity_writes_a_table_and_a_picture(tmp_path: Path, data: dict[str, Any]) -> None:
    path = write_config(tmp_path, data)
    result = call("similarity", path, "--metric", "cka")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out" / "tiny"
    with (out / "similarity_cka.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(-1 <= float(row["cka"]) <= 1.000001 for row in rows)
    assert len({(row["donor"], row["recipient"], row["adapter"]) for row in rows}) == len(rows)
    assert {row["recipient"].partition(":")[0] for row in rows} == {"a", "b"}
    with Image.open(out / "similarity_cka.png") as picture:
        assert min(picture.size) > 300
    assert f"{len(rows)} legal shares" in result.stdout
    assert not (out / "result.json").exists()


def test_correlate_writes_its_comparison_and_names_the_files(
    labelled: Labelled, tmp_path: Path
) -> None:
    path = write_config(tmp_path, with_changes(labelled.data, {
        "truth": {"a": {"csv": str(labelled.folder / "a.csv")}},
        "cache": str(labelled.folder / "cache"),
    }))  # fmt: skip
    write_labels(labelled.folder, labelled.labels)
    result = call("correlate", path, "--set", "name=other")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out" / "other" / "correlate"
    assert {p.name for p in out.iterdir()} == {
        "league.json", "guides.csv", "points.png", "maps.png", "bars.png",
    }  # fmt: skip
    assert f"Wrote {out}/league.json, guides.csv and figures." in result.stdout
    assert "44 shares" in result.stdout and result.stderr == ""


def test_correlate_without_ground_truth_is_a_one_line_error(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    result = call("correlate", write_config(tmp_path, with_changes(data, {"truth": {}})))
    assert "needs `truth:` for at least one model" in one_line(result, 1)


def test_similarity_refuses_an_unknown_metric(tmp_path: Path, data: dict[str, Any]) -> None:
    result = call("similarity", write_config(tmp_path, data), "--metric", "magic")
    assert "'magic'" in one_line(result, 1)


def test_plan_show_prints_shares_costs_and_verification(tiny_run: FinishedRun) -> None:
    result = tiny_run.result
    chosen = next(c for c in result.candidates if c.hash == result.chosen)
    result = call("plan", "show", tiny_run.out / "plans" / f"{chosen.hash}.json")
    assert result.exit_code == 0, result.output
    for share in chosen.plan["shares"]:
        assert share["donor"] in result.stdout and share["recipient"] in result.stdout
    assert f"plan {chosen.hash}: {len(chosen.plan['shares'])} share" in result.stdout
    assert f"holds {chosen.bytes / 1e6:.2f} MB" in result.stdout
    assert f"verified a: top1 {chosen.accuracy['a']['top1']:.3f}" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "quality kept: - (no baseline: unmerged, a is no better than chance on the labels)"
    )


def test_plan_show_needs_no_result(tiny_run: FinishedRun, tmp_path: Path) -> None:
    file = next((tiny_run.out / "plans").glob("*.json"))
    copied = shutil.copy(file, tmp_path / "mine.json")
    result = call("plan", "show", copied)
    assert result.exit_code == 0 and "holds" not in result.stdout
    assert f"plan {file.stem}" in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "a plan is"), ('{"version": 9, "shares": []}', "version 9")],
)
def test_plan_show_refuses_a_file_that_is_no_plan(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    line = one_line(call("plan", "show", file), 1)
    assert message in line and str(file) in line
    assert "cannot be read" in one_line(call("plan", "show", tmp_path / "gone.json"), 1)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"models": 3}'])
def test_plan_show_names_a_damaged_result(
    tiny_run: FinishedRun, tmp_path: Path, text: str
) -> None:
    file = next((tiny_run.out / "plans").glob("*.json"))
    (tmp_path / "plans").mkdir()
    copied = shutil.copy(file, tmp_path / "plans" / file.name)
    (tmp_path / "result.json").write_text(text)
    assert "result.json" in one_line(call("plan", "show", copied), 1)


def _is_warm(answer: Path) -> None:
    answer.write_text(str("preloaded" in sys.modules and "PYTHONPATH" not in os.environ))


def test_commands_are_forked_from_a_process_that_has_imported_everything(tmp_path: Path) -> None:
    start_forked(_is_warm, tmp_path / "answer").join()
    assert (tmp_path / "answer").read_text() == "True"
