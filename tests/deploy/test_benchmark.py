"""`bench-bundle` shows how many of its measuring processes are done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import FinishedRun

from search.deploy import benchmark
from search.deploy.benchmark import BundleMeasurement, benchmark_bundle
from search.utils.progress import Progress
from search.utils.reporter import SilentReporter


class CountingReporter(SilentReporter):
    """Records the total and the finished units of every progress display."""

    def __init__(self) -> None:
        self.units: dict[str, list[int]] = {}

    @contextmanager
    def progress(self, task: str, total: int) -> Iterator[Progress]:
        self.units[task] = [total]
        yield self.units[task].append


def test_the_progress_counts_every_measuring_process(
    tiny_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(kind: str, folder: Path) -> BundleMeasurement:
        measured.append(kind)
        return BundleMeasurement(1, 1, 1, 1.0)

    monkeypatch.setattr(benchmark, "_measure_in_fresh_process", measure)
    reporter = CountingReporter()
    benchmark_bundle(tiny_run.out / "bundle", reporter)
    assert measured == ["merged", "unmerged", "libraries"] * benchmark.ROUNDS
    assert reporter.units == {"processes": [len(measured), *[1] * len(measured)]}
