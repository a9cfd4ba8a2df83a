"""How a long computation reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], None]
"""Takes the number of units finished since the last call."""


def silent(done: int) -> None:
    """Drop the progress."""
