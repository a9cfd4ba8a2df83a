"""Short latency measurements for tests that do not depend on their precision."""

from __future__ import annotations

from search.evaluation import latency
from search.evaluation.latency import StopwatchSettings

QUICK = StopwatchSettings(warmup=1, runs=3, seconds=0.0, frames=2)


def shorten_stopwatch() -> None:
    """Let this process measure latency with few runs instead of at least half a second."""
    latency.DEFAULT_STOPWATCH = QUICK
