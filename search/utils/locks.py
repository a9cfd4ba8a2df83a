"""File locks, which one process holds at a time."""

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
    """Another process holds a lock that this command needs."""

    exit_code = 5


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait for the lock of `path` and hold it during the block.

    The lock is on a hidden file beside `path`, which stays. The kernel releases it when the
    process ends.

    Raises:
        CannotWrite: the folder cannot be created or written to.
    """
    with _lock_file(path.with_name(f".{path.name}.lock"), path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` during the block, or fail if another process holds it.

    `what` completes the error message "another process ..."; it starts with a verb.

    Raises:
        Busy: another process holds the lock.
        CannotWrite: the folder cannot be created or written to.
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
    """Open the file to lock; an error names `path`."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return open(lock, "a+", encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
