"""The quality that a plan keeps, for people to read: none if the baseline is at chance.

`at_chance` are always the models whose unmerged score is no better than chance. A share of such a
score is a share of noise, so it is written nowhere as a percentage.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from search.utils.format import list_names, percent, percent_interval

_T = TypeVar("_T")


def readable_quality(quality: _T | None, at_chance: Collection[str]) -> _T | None:
    """Return a quality kept, or its interval; None if it means nothing."""
    return None if at_chance else quality


def kept_text(quality: float | None, at_chance: Collection[str]) -> str:
    """Format the quality kept for a table; a dash if it means nothing."""
    return percent(readable_quality(quality, at_chance))


def kept_interval_text(interval: Sequence[float] | None, at_chance: Collection[str]) -> str:
    """Format the interval of the quality kept; empty if there is none, or if it means nothing."""
    readable = readable_quality(interval, at_chance)
    return "" if readable is None else percent_interval(readable)


def no_baseline_text(at_chance: Collection[str]) -> str:
    """Say why no quality kept is given."""
    names = list(at_chance)
    verb = "is" if len(names) == 1 else "are"
    return f"no baseline: unmerged, {list_names(names)} {verb} no better than chance on the labels"
