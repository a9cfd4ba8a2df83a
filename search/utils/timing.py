"""How long each part of a run took, and the moments that results tell of."""

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
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = round(time.perf_counter() - start, 2)


def this_moment() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_the_minute(moment: str) -> str:
    """For people, of ISO 8601."""
    return moment[:16].replace("T", " ")


def milliseconds(moment: str) -> int:
    """Convert ISO 8601 to whole milliseconds since 1970, rounded down."""
    return (datetime.fromisoformat(moment).astimezone(UTC) - EPOCH) // timedelta(milliseconds=1)
