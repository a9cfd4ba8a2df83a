"""What the console prints around a slow step."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from search.utils import console
from search.utils.console import ConsoleReporter


@pytest.mark.parametrize(("limit", "is_slow"), [(0.0, True), (float("inf"), False)])
def test_a_terminal_shows_how_long_a_slow_step_took(
    monkeypatch: pytest.MonkeyPatch, limit: float, is_slow: bool
) -> None:
    monkeypatch.setattr(console, "SLOW", limit)
    terminal = Console(
        file=StringIO(), force_terminal=True, force_interactive=True, color_system=None
    )
    reporter = ConsoleReporter(terminal)
    with reporter.working("[stages]"):
        pass
    assert isinstance(reporter.console.file, StringIO)
    text = reporter.console.file.getvalue()
    assert bool(re.search(r"  \[stages\]: \d+\.\d s", text)) == is_slow


def test_an_output_that_is_no_terminal_shows_no_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "SLOW", 0.0)
    reporter = ConsoleReporter(Console(file=StringIO()))
    with reporter.working("stages"):
        pass
    assert isinstance(reporter.console.file, StringIO)
    assert not reporter.console.file.getvalue()
