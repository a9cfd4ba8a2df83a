"""Durations of the parts of a run, and times in records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StepTimings:
    """Seconds spent in each named part of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Measure the time that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = round(time.perf_counter() - start, 2)


def utc_now() -> str:
    """Return the time in ISO 8601, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def format_minute(moment: str) -> str:
    """Shorten a time in ISO 8601 to the minute, for people."""
    return moment[:16].replace("T", " ")


def epoch_milliseconds(moment: str) -> int:
    """Convert ISO 8601 to whole milliseconds since 1970, rounded down."""
    return (datetime.fromisoformat(moment).astimezone(UTC) - EPOCH) // timedelta(milliseconds=1)
