"""What a run takes of its machine while it goes on: OUT/system.json, for MLflow's own page of it.

Names and units are those that MLflow gives to what it watches itself; MLflow's watch needs a run
that is open while the work is done, and ours are logged when it is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from search.utils.files import write_json

SYSTEM = "system.json"
INTERVAL = 5.0
"""Seconds between samples."""
MOST = 2000
"""Samples kept; of a longer run every second one is dropped, again and again."""
Sample = dict[str, float]
"""Milliseconds since 1970 as `time`, and each metric by name."""


@contextmanager
def watched(out: Path) -> Iterator[None]:
    """Watch the machine until the block ends, then write what was seen."""
    watch = _Watch()
    watch.start()
    try:
        yield
    finally:
        watch.stop()
    write_json(out / SYSTEM, watch.samples)


class _Watch(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="system metrics", daemon=True)
        self.samples: list[Sample] = []
        self._process = psutil.Process()
        self._over = threading.Event()
        self._wait = INTERVAL

    def run(self) -> None:
        psutil.cpu_percent()  # the first answer is since the machine began
        while not self._over.wait(self._wait):
            self.samples.append(self._sample())
            if len(self.samples) > MOST:
                self.samples, self._wait = self.samples[::2], 2 * self._wait

    def stop(self) -> None:
        """The last sample is of the end, so that a short run has one, too."""
        self._over.set()
        self.join()
        self.samples.append(self._sample())

    def _sample(self) -> Sample:
        memory = psutil.virtual_memory()
        return {
            "time": int(time.time() * 1000),
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": round(memory.used / 1e6, 1),
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_memory_megabytes": round(self._process.memory_info().rss / 1e6, 1),
        }
