"""Fixtures for `commands`; tests/conftest.py loads them as a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Command, StartCommand, no_preparation


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartCommand]:
    """Start commands whose output goes to files; kill those still running after the test."""
    started: list[Command] = []

    def launch(*arguments: str | Path, prepare: Callable[[], Any] = no_preparation) -> Command:
        log = tmp_path / f"output-{len(started)}"
        started.append(Command(log, tuple(map(str, arguments)), prepare))
        return started[-1]

    yield launch
    for command in started:
        command.kill()
