"""How a long computation says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], None]


def silent(done: int) -> None:
    """Progress that nobody watches."""
