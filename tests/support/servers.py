"""A real `mlflow server` on loopback that can be stopped, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server:
    """One store with one address; what it holds outlives its process."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._port}"
        self.store = folder / "store.db"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
                   str(self._port), "--workers", "1", "--backend-store-uri",
                   f"sqlite:///{self.store}", "--artifacts-destination",
                   str(self._folder / "artifacts")]  # fmt: skip
        quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=quiet, start_new_session=True,
                cwd=self._folder,
            )  # fmt: skip
        try:
            wait_for(self.uri, self._process, self._folder / "server.log")
        except AssertionError:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask it and its workers to stop; those that do not are killed."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """SIGKILL to it and its workers: nobody gets to finish anything."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)
            self._process = None


def wait_for(uri: str, process: subprocess.Popen[bytes], log: Path, seconds: int = 120) -> None:
    """Wait until the server at that address, which writes to that log, answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


@contextmanager
def as_soon_as(reached: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Watch from a thread, and act once."""
    over, acted = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            if reached():
                act()
                acted.set()
                return
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert acted.is_set(), "it never came to that"
