"""Commands in poor surroundings: another encoding, no home, folders that cannot be written to."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import FinishedRun, Weights, config_data, with_changes, write_config

from search.cli.output import ERRORS, accept_all_characters
from search.config.base import BadConfig
from search.config.loading import load_config
from search.config.run import RunConfig
from search.tracking.target import Target
from search.utils.files import CannotWrite

POOR = {"PYTHONIOENCODING": "ascii", "HOME": "/proc/none", "MPLCONFIGDIR": ""}
NO_USER = """
import os, pwd
def unknown(number): raise KeyError(number)
os.environ.pop("HOME", None)
pwd.getpwuid = unknown
import search.tracking.client
print(os.path.expanduser("~"))
"""


def start(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own, with an ASCII terminal and no home."""
    return subprocess.run(
        [sys.executable, "-m", "search", *arguments],
        env={**os.environ, **POOR}, capture_output=True, check=False,
    )  # fmt: skip


def test_commands_run_without_a_home_on_an_ascii_terminal(
    tmp_path: Path, weights: Weights
) -> None:
    smaller = {"search.trials": 10, "verify.shortlist": 2, "verify.candidates": 1}
    path = write_config(tmp_path, with_changes(config_data(weights), smaller))
    ran = start("run", str(path))
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"held-out R2 of the adapter" in ran.stdout and b"..." in ran.stdout
    out = tmp_path / "out" / "tiny"
    plan = next((out / "plans").glob("*.json"))
    shown = start("plan", "show", str(plan))
    assert (shown.returncode, shown.stderr) == (0, b"")


def test_our_characters_are_written_in_ascii_and_unknown_bytes_as_a_question_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    accept_all_characters()
    print("97…99% 3\xd74 a→b caf\udce9", flush=True)
    assert raw.getvalue() == b"97...99% 3x4 a->b caf?\n"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", ERRORS)


def test_a_folder_whose_name_is_not_utf_8_is_refused(weights: Weights, tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_bytes(write_config(tmp_path, config_data(weights)).read_bytes())
    with pytest.raises(BadConfig, match="is not UTF-8, which files of weights and records need"):
        load_config(path)


def test_a_user_without_a_home_is_served() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NO_USER], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("/\n", 0), done.stderr


@pytest.fixture
def read_only(tiny_run: FinishedRun, tmp_path: Path) -> dict[str, Any]:
    """Keys of a config beside which no folder `out` can be made."""
    (tmp_path / "out").write_text("a file where the folder would be")
    return {**tiny_run.config.as_written(), "base": tmp_path, "out": "elsewhere"}


def test_a_read_only_project_needs_a_tracking_uri(read_only: dict[str, Any]) -> None:
    config = RunConfig(**read_only)
    with pytest.raises(CannotWrite, match=r"MLflow's store, cannot .* set mlflow\.tracking_uri"):
        Target.of(config)


def test_with_a_database_elsewhere_artifacts_lie_in_the_output_folder(
    read_only: dict[str, Any], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    config = RunConfig(**{**read_only, "mlflow": {"tracking_uri": uri}})
    assert Target.of(config).artifacts == (tmp_path / "elsewhere/mlartifacts").as_uri()
