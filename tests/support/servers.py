"""Run a real `mlflow server` on loopback that a test can stop, kill and restart."""

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
    """Return a TCP port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Return whether a process takes connections at a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """An MLflow server with one address and one store; the store outlives the process."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._port}"
        self.store = folder / "store.db"

    def start(self) -> None:
        """Start the server, unless it is running, and wait until it answers."""
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
        """Stop the server and its workers with SIGTERM; kill them after a minute."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL to the server and its workers: no request is finished."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(600)
            self._process = None


def wait_for(uri: str, process: subprocess.Popen[bytes], log: Path, seconds: int = 900) -> None:
    """Wait until the server at `uri` answers; show the end of its log if it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=30) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


@contextmanager
def as_soon_as(reached: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Poll from a thread during the `with` block; call `act` as soon as `reached()` is true."""
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
    assert acted.is_set(), "the condition was never reached"
