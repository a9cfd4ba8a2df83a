"""File locks, which one process holds at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from search.utils.files import CannotWrite
from spaces.errors import MergeSearchError

MOUNTS = Path("/proc/self/mountinfo")
LOCAL_LOCK_OPTIONS = re.compile(r"(^|,)(nolock|nobrl|local_lock=(all|flock|posix))(,|$)")
"""Mount options of network file systems under which other machines do not see a lock."""


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


def describe_local_locks(path: Path, mounts: str | None = None) -> str:
    """Return a warning if locks on a file hold on this machine only; empty if they do not.

    That is so on a network file system with certain mount options, and on one in user space, such
    as sshfs. `mounts` is the text of /proc/self/mountinfo; by default it is read.
    """
    if mounts is None:
        mounts = MOUNTS.read_text(errors="replace") if MOUNTS.exists() else ""
    mount = max(
        (m for m in map(_Mount.parse, mounts.splitlines()) if m and m.holds(path.absolute())),
        key=lambda m: len(m.point.parts),
        default=None,
    )
    if mount is None or not mount.has_local_locks:
        return ""
    return (
        f"{path}: {mount.point} is a network file system ({mount.kind}) whose locks other "
        "machines do not see; search from one machine at a time, or set `storage:` to a local "
        "file or a PostgreSQL database"
    )


class _Mount(NamedTuple):
    """One line of /proc/self/mountinfo, as far as locks depend on it."""

    point: Path
    kind: str
    """Type of the file system."""
    options: str

    @classmethod
    def parse(cls, line: str) -> _Mount | None:
        """Parse a line; return None if it has another form."""
        before, separator, after = line.partition(" - ")
        fields, details = before.split(), after.split()
        if not separator or len(fields) < 6 or len(details) < 3:
            return None
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        return cls(Path(point), details[0], f"{fields[5]},{details[2]}")

    def holds(self, path: Path) -> bool:
        return path.is_relative_to(self.point)

    @property
    def has_local_locks(self) -> bool:
        if self.kind.startswith("fuse."):
            return self.kind.removeprefix("fuse.") in ("sshfs", "s3fs", "rclone", "gcsfuse")
        network = self.kind.startswith(("nfs", "cifs", "smb"))
        return network and LOCAL_LOCK_OPTIONS.search(self.options) is not None
