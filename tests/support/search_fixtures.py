"""Fixtures for searches in processes of their own; tests/conftest.py loads them as a plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import Command, no_preparation
from tiny import Weights, config_data, with_changes, write_config


@pytest.fixture(scope="session")
def search_data(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a config without ground truth whose statistics are cached; its runs log to one store.

    A search of it takes seconds.
    """
    folder = tmp_path_factory.mktemp("shared")
    data = with_changes(config_data(weights), {
        "truth": {},
        "cache": str(folder / "cache"),
        "mlflow.tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
        "search.trials": 12,
        "verify.shortlist": 3,
        "verify.candidates": 2,
    })  # fmt: skip
    run = Command(folder / "output", ("run", str(write_config(folder, data))), no_preparation)
    assert run.exit_code() == 0, run.output
    return data


@pytest.fixture
def search_config(search_data: dict[str, Any], tmp_path: Path) -> Path:
    return write_config(tmp_path, search_data)


@pytest.fixture(params=["journal", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path or URL of an empty store of trials, of each kind in turn."""
    if request.param == "journal":
        return str(tmp_path / "trials.log")
    return str(request.getfixturevalue("database"))
