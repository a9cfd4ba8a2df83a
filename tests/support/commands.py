"""Run `merge-search` in processes that a test can signal and kill."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from quick import shorten_stopwatch

from search.cli.main import main

HANG = 1800.0
"""Seconds after which a process counts as hung: enough for any busy machine."""
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["preloaded"])


def start_forked(target: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """Start a process forked from one that has imported everything.

    The first call starts that server, which finds `preloaded` by PYTHONPATH only.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        process = FORKED.Process(target=target, args=arguments)
        process.start()
    return process


class Command:
    """`merge-search ARGUMENTS` in a process forked from one that has imported everything.

    Both of its streams go to the file `log`; `prepare` runs in the process before the command.
    """

    def __init__(self, log: Path, arguments: tuple[str, ...], prepare: Callable[[], Any]) -> None:
        self._log = log
        self._process = start_forked(_run_command, log, arguments, prepare)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        """Standard output and standard error so far."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def study(self) -> str:
        """The name of the study, from the line that says how a worker joins."""
        name: str = re.findall(r"merge-search worker \S+ (\S+)", self.output)[0]
        return name

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> bool:
        """Send SIGKILL; return whether that ended the process, rather than an earlier exit."""
        self._process.kill()
        return self.exit_code() == -signal.SIGKILL

    def exit_code(self) -> int | None:
        self._process.join(HANG)
        return self._process.exitcode


def _run_command(log: Path, arguments: tuple[str, ...], prepare: Callable[[], Any]) -> None:
    stream = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    # A shell that runs the tests in the background ignores SIGINT, and processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shorten_stopwatch()
    prepare()
    main(list(arguments))


def no_preparation() -> None:
    """Do nothing: the default for `prepare`."""


def limit_file_size(size: int) -> Callable[[], None]:
    """Return a preparation that limits every file to `size` bytes: longer writes fail (EFBIG)."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def drop_root_capabilities() -> None:
    """Drop all capabilities, so that permission bits are respected although the user is root."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the structure, this process
    no_capabilities = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, no_capabilities) == 0


StartCommand = Callable[..., Command]


def wait_until(reached: Callable[[], bool], seconds: float = HANG) -> None:
    """Poll until `reached()` is true; fail after that many seconds."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"still not reached after {seconds} s"
        time.sleep(0.005)


def wait_for_work(pid: int, cpu_seconds: float) -> None:
    """Wait until a process has used that much more CPU time, or has ended.

    Unlike a pause, this is the same work on a fast, a slow and a busy machine.
    """
    end = _cpu_seconds(pid) + cpu_seconds
    wait_until(lambda: _cpu_seconds(pid) >= end)


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far; infinity after its end."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return math.inf
    return times.user + times.system


def run_to_end(start: StartCommand, *arguments: str | Path) -> Command:
    """Run `merge-search run ARGUMENTS` and assert that it succeeds."""
    command = start("run", *arguments)
    assert command.exit_code() == 0, command.output
    return command


def assert_fails_in_one_sentence(command: Command, code: int = 1) -> str:
    """Return the last line of the output: the only error message, without a traceback."""
    assert command.exit_code() == code, command.output
    assert "Traceback" not in command.output
    *_, last = command.output.splitlines()
    assert last.startswith("merge-search: ") and command.output.count("merge-search: ") == 1
    return last
