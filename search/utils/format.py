"""Numbers for people to read."""

from __future__ import annotations

from collections.abc import Sequence

MEGABYTE = 1e6


def megabytes(count: float) -> str:
    return f"{count / MEGABYTE:.2f} MB"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def as_sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def list_names(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def percent_interval(interval: Sequence[float]) -> str:
    """Return the interval [low, high] in percent."""
    low, high = interval
    return f"{100 * low:.1f}…{100 * high:.1f}%"


def one_of(words: Sequence[str]) -> str:
    """Return alternatives in words: `a, b or c`."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last
