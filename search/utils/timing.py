"""How long each part of a run took, and the moments that results tell of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime


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
    """ISO 8601 in milliseconds since 1970."""
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
