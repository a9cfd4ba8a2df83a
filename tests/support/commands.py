"""`merge-search` as a user's shell starts it: processes of their own, which can be killed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from search.cli.main import main

IMPORTED = ["search.cli.main", "search.pipelines.run", "search.study.optimize", "effdet",
            "timm", "matplotlib.pyplot", "mlflow.store.tracking.sqlalchemy_store", "pandas",
            "psycopg", "pytest"]  # fmt: skip
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(IMPORTED)


class Command:
    """`merge-search ARGUMENTS` in a process of its own, which has imported everything already."""

    def __init__(self, told: Path, arguments: tuple[str, ...], prepare: Callable[[], Any]) -> None:
        self._told = told
        self._process = FORKED.Process(target=_call, args=(told, arguments, prepare))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def said(self) -> str:
        """On both its streams, so far."""
        return self._told.read_text() if self._told.exists() else ""

    @property
    def study(self) -> str:
        """The name that it gives to workers."""
        name: str = re.findall(r"merge-search worker \S+ (\S+)", self.said)[0]
        return name

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> bool:
        """SIGKILL, if it still runs; returns whether that was its end."""
        self._process.kill()
        return self.exit_code() == -signal.SIGKILL

    def exit_code(self) -> int | None:
        self._process.join(120)
        return self._process.exitcode


def _call(told: Path, arguments: tuple[str, ...], prepare: Callable[[], Any]) -> None:
    log = os.open(told, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    # Ignored, and so inherited, where a shell has put the tests into its background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare()
    main(list(arguments))


def as_it_is() -> None:
    """No preparation."""


def small_files(size: int) -> Callable[[], None]:
    """No file grows beyond that many bytes; the kernel answers EFBIG in the middle of a write."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def powerless() -> None:
    """Permission bits hold for root too."""
    version_3_of_this_process = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_3_of_this_process, nothing) == 0


Start = Callable[..., Command]


def wait_until(reached: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def finish(start: Start, *arguments: str | Path) -> Command:
    command = start("run", *arguments)
    assert command.exit_code() == 0, command.said
    return command


def failed_in_one_sentence(command: Command, code: int = 1) -> str:
    assert command.exit_code() == code, command.said
    assert "Traceback" not in command.said
    *_, last = command.said.splitlines()
    assert last.startswith("merge-search: ") and command.said.count("merge-search: ") == 1
    return last
