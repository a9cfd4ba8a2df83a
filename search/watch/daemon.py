"""Start rounds on schedule, each in a process of its own: `merge-search watch`.

The watcher itself holds a schedule and a lock and nothing else: no network, frame or connection
outlives a round, and the failure of a round affects no other.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from search.results.rounds import EXIT_CODES, RoundHistory
from search.utils.locks import exclusive_lock
from search.utils.reporter import Reporter
from search.utils.schedule import Clock, Due, Schedule

WATCHER_LOCK = "watch.lock"
GRACE_PERIOD = 5.0
"""Seconds that a round gets to end by itself when the watcher is stopped."""
StartRound = Callable[[Due], int]
"""Does a round and returns its exit code."""


@contextmanager
def watcher_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the watcher of a config.

    Raises:
        Busy: another process watches this config.
    """
    with exclusive_lock(folder / WATCHER_LOCK, f"watches {folder.parent} already"):
        yield


def watch(
    schedule: Schedule,
    history: RoundHistory,
    clock: Clock,
    start_round: StartRound,
    reporter: Reporter,
) -> None:
    """Start rounds when they are due. Returns only by an exception."""
    last = history.last()
    last_due = None if last is None else datetime.fromisoformat(last.due)
    while True:
        due = schedule.due(last_due, clock.now())
        if due is None:
            assert last_due is not None  # the first round ever is due immediately
            upcoming = schedule.after(clock.now())
            reporter.say(f"Next round at {upcoming:%Y-%m-%d %H:%M:%S} UTC")
            clock.wait_until(upcoming)
            continue
        last_due = due.at
        code = start_round(due)
        if code not in EXIT_CODES.values():
            reporter.warn(f"the round of {due.at:%Y-%m-%d %H:%M} UTC ended with code {code}")


@dataclass(frozen=True)
class RoundProcess:
    """Does rounds in processes of their own."""

    arguments: Sequence[str]
    """Command-line arguments of `merge-search watch`."""

    def __call__(self, due: Due) -> int:
        options = ["--due", due.at.isoformat(timespec="seconds"), "--missed", str(due.missed)]
        command = [sys.executable, "-m", "search", "watch", *self.arguments, "--once", *options]
        child = subprocess.Popen(command)
        try:
            return child.wait()
        except BaseException:
            _stop(child)
            raise


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Let a round end by itself, then stop it.

    A terminal and systemd signal both processes; `kill` signals the watcher alone.
    """
    try:
        child.wait(GRACE_PERIOD)
    except subprocess.TimeoutExpired:
        child.terminate()
        child.wait()
