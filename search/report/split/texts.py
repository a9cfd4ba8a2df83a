"""Numbers of a split, and the quality that is shown of it, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

from search.results.kept_quality import kept_interval_text
from search.results.split_result import SplitMeasurement, SplitResult
from search.utils.format import MEGABYTE, megabytes, percent

KILOBYTE = 1000


def sent_text(count: float) -> str:
    """Return the size of a message: bytes, then kB of 1,000 bytes, then MB."""
    if count < KILOBYTE:
        return f"{count:.0f} bytes"
    if count >= MEGABYTE:
        return megabytes(count)
    kilobytes = count / KILOBYTE
    return f"{kilobytes:.2f} kB" if kilobytes < 10 else f"{kilobytes:.1f} kB"


def tick_text(count: float) -> str:
    """Return a round number of bytes for an axis."""
    for unit, size in (("MB", MEGABYTE), ("kB", KILOBYTE)):
        if count >= size:
            return f"{count / size:g} {unit}"
    return f"{count:g} B"


def milliseconds(time: float) -> str:
    return f"{time:.1f} ms" if time < 10 else f"{time:.0f} ms"


def fewer_text(less: float, more: float) -> str:
    """Return by how much `less` is below `more`, in per cent or as a factor."""
    return (
        f"{percent(1 - less / more)} less" if more < 2 * less else f"{more / less:.1f} times less"
    )


def has_quality(result: SplitResult) -> bool:
    """Return whether the quality kept means something: there are labels, and none at chance."""
    return bool(result.unsplit.accuracy) and not result.unsplit.at_chance


def shown_quality_name(result: SplitResult) -> str:
    return "quality kept" if has_quality(result) else "fidelity"


def shown_quality(result: SplitResult, measured: SplitMeasurement) -> float | None:
    """Return the quality kept; the mean fidelity if there is no quality that means something."""
    return measured.quality_kept if has_quality(result) else measured.mean_fidelity


def shown_interval(result: SplitResult, measured: SplitMeasurement) -> Sequence[float] | None:
    """Return [low, high] of the quality that is shown; fidelity has none."""
    return measured.quality_interval if has_quality(result) else None


def quality_text(result: SplitResult, measured: SplitMeasurement) -> str:
    return percent(shown_quality(result, measured))


def quality_interval_text(result: SplitResult, measured: SplitMeasurement) -> str:
    """Return the 95% interval of the quality kept; empty if there is none."""
    return kept_interval_text(measured.quality_interval, result.unsplit.at_chance)
