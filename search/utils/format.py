"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which makes a command wait for torch before it can show that it waits
    pass


MEGABYTE = 1e6


def megabytes(count: float) -> str:
    return f"{count / MEGABYTE:.2f} MB"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def percents(interval: Sequence[float]) -> str:
    """Of [low, high]."""
    low, high = interval
    return f"{100 * low:.1f}…{100 * high:.1f}%"
