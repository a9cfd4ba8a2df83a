"""Locks on files, held by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from search.utils.files import CannotWrite
from spaces.errors import MergeSearchError


class Busy(MergeSearchError):
    """Another process does what only one may do at a time."""

    exit_code = 5


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the kernel's own lock goes with the process that held it.

    The lock is a hidden file beside `path`, which stays.

    Raises:
        CannotWrite: the folder cannot be made or written to.
    """
    with _lock_file(path.with_name(f".{path.name}.lock"), path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """As `locked`, but who comes second is refused; `what` is what only one may do.

    Raises:
        Busy: another process does it.
        CannotWrite: the folder cannot be made or written to.
    """
    with _lock_file(path, path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(f"another process (number {file.read() or '?'}) {what}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock_file(lock: Path, path: Path) -> TextIO:
    """The file to lock on; where it cannot be made, it is `path` that is named."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return open(lock, "a+", encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
