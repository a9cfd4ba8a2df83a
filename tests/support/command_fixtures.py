"""Fixtures over `commands`; a module that wants them names this one in its `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Command, Start, as_it_is


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts commands whose output is a file; what still runs after the test is killed."""
    started: list[Command] = []

    def launch(*arguments: str | Path, prepare: Callable[[], Any] = as_it_is) -> Command:
        told = tmp_path / f"told-{len(started)}"
        started.append(Command(told, tuple(map(str, arguments)), prepare))
        return started[-1]

    yield launch
    for command in started:
        command.kill()
