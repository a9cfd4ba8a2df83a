"""`merge-search watch`: rounds at the times of a schedule, each in a process of its own.

The watcher itself holds a schedule and a lock and nothing else: no network, no frame and no
connection outlives a round, and whatever happens to a round happens to that round alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from search.results.rounds import EXIT_CODES, History
from search.utils.locks import alone
from search.utils.reporter import Reporter
from search.utils.schedule import Clock, Due, Schedule

LOCK = "watch.lock"
PATIENCE = 5.0
"""Seconds that a round gets to end by itself when the watcher is stopped."""
Start = Callable[[Due], int]
"""Does a round; returns its exit code."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """One watcher of a config at a time.

    Raises:
        Busy: there is another.
    """
    with alone(folder / LOCK, f"watches {folder.parent} already"):
        yield


def watch(
    schedule: Schedule, history: History, clock: Clock, start: Start, reporter: Reporter
) -> None:
    """Start rounds when they are due, until it is stopped."""
    last = history.last()
    began = None if last is None else datetime.fromisoformat(last.due)
    while True:
        due = schedule.due(began, clock.now())
        if due is None:
            assert began is not None  # the first round ever is due at once
            upcoming = schedule.after(clock.now())
            reporter.say(f"Next round at {upcoming:%Y-%m-%d %H:%M:%S} UTC")
            clock.wait_until(upcoming)
            continue
        began = due.at
        code = start(due)
        if code not in EXIT_CODES.values():
            reporter.warn(f"the round of {due.at:%Y-%m-%d %H:%M} UTC ended with code {code}")


@dataclass(frozen=True)
class RoundProcess:
    """Starts rounds as processes."""

    arguments: Sequence[str]
    """Of `merge-search watch`."""

    def __call__(self, due: Due) -> int:
        told = ["--due", due.at.isoformat(timespec="seconds"), "--missed", str(due.missed)]
        command = [sys.executable, "-m", "search", "watch", *self.arguments, "--once", *told]
        child = subprocess.Popen(command)
        try:
            return child.wait()
        except BaseException:
            _end(child)
            raise


def _end(child: subprocess.Popen[bytes]) -> None:
    """A terminal and systemd stop both of us; `kill` stops the watcher alone."""
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.terminate()
        child.wait()
