"""Sample CPU and memory during a run: OUT/system.json, for the system page of MLflow.

Names and units are MLflow's. Its own sampling needs a run that is open during the work, whereas
ours are logged afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from search.utils.files import write_json

SYSTEM_FILE = "system.json"
SAMPLING_INTERVAL = 5.0
"""Seconds between samples."""
MOST_SAMPLES = 2000
"""Samples at most; beyond that, every second one is dropped and the interval doubles."""
SystemSample = dict[str, float]
"""`time` in milliseconds since 1970, and each metric by name."""


@contextmanager
def sampled_system_metrics(out: Path) -> Iterator[None]:
    """Sample the machine until the block ends, then write the samples."""
    sampler = _Sampler()
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()
    write_json(out / SYSTEM_FILE, sampler.samples)


class _Sampler(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="system metrics", daemon=True)
        self.samples: list[SystemSample] = []
        self._process = psutil.Process()
        self._stop_event = threading.Event()
        self._interval = SAMPLING_INTERVAL

    def run(self) -> None:
        psutil.cpu_percent()  # the first answer covers the time since boot
        while not self._stop_event.wait(self._interval):
            self.samples.append(self._sample())
            if len(self.samples) > MOST_SAMPLES:
                self.samples, self._interval = self.samples[::2], 2 * self._interval

    def stop(self) -> None:
        """Take a last sample, so that a short run has one too."""
        self._stop_event.set()
        self.join()
        self.samples.append(self._sample())

    def _sample(self) -> SystemSample:
        memory = psutil.virtual_memory()
        return {
            "time": int(time.time() * 1000),
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": round(memory.used / 1e6, 1),
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_memory_megabytes": round(self._process.memory_info().rss / 1e6, 1),
        }
