"""Call `merge-search` in this process, and check how it ends."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from search.cli.main import main


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)], prog_name="merge-search")


def done(*arguments: str | Path) -> Result:
    """Call a command, and assert that it succeeds."""
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


def error_of(*arguments: str | Path) -> str:
    """Call a command, assert that it fails in one sentence, and return the sentence."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("merge-search: ") and result.stderr.count("\n") == 1
    return result.stderr
