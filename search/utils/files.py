"""Durable writes: a temporary file, fsync, rename. A reader sees the old file or the new one."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spaces.errors import MergeSearchError

STALE_AFTER = 3600.0
"""Seconds after which a temporary file counts as left over from a killed process."""


class CannotWrite(MergeSearchError):
    """A file or a folder cannot be written."""


def short_hash(text: str) -> str:
    """Return 16 hex digits: they name a file by all that its content depends on."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write to; after the block, it replaces the file at `path`.

    Raises:
        CannotWrite: the folder cannot be created or written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_files(path)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_folder(path: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary folder to fill; after the block, it replaces the folder at `path`.

    A folder that exists must be empty or hold a file named `marker`, which shows that
    merge-search wrote it.

    Raises:
        CannotWrite: the folder holds other files, or cannot be written to.
    """
    if path.exists() and not (path / marker).is_file() and (path.is_file() or any(path.iterdir())):
        raise CannotWrite(
            f"{path} holds other files: name a folder that is new or empty, or that holds a "
            f"{marker} to replace"
        )
    part, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        part.mkdir(parents=True)
        yield part
        for member in filter(Path.is_file, part.rglob("*")):
            with member.open("rb") as file:
                os.fsync(file.fileno())
            # some libraries write files that only the owner may read
            member.chmod(0o666 & ~_umask())
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _umask() -> int:
    """Return the umask of this process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _remove_stale_files(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote to `path`."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - stale.stat().st_mtime > STALE_AFTER:
                stale.unlink()


def link_or_copy(source: str, copy: str) -> None:
    """Create a hard link to the file, or a copy on a file system without links."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copy2(source, copy)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path`, completely or not at all.

    Raises:
        CannotWrite: the folder cannot be created or written to, or the disk is full.
    """
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    write_bytes(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """Return the bytes that `write_json` writes."""
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def make_folder(path: Path, key: str = "out") -> Path:
    """Create the folder that the config key `key` names, and check that it can be written to.

    Raises:
        CannotWrite: it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise CannotWrite(
            f"{key} folder {path} cannot be written to: {error.strerror or error}; "
            f"set `{key}:` in the config to a folder that you can write to"
        ) from error


def replace_link(link: Path, target: Path) -> None:
    """Point a link at a folder, in one step; a relative target starts at the link's folder.

    Raises:
        CannotWrite: the link cannot be written.
    """
    with contextlib.suppress(OSError):
        if link.is_symlink() and link.readlink() == target:
            return
    part = link.with_name(f".{link.name}.part")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        part.symlink_to(target, target_is_directory=True)
        os.replace(part, link)
    except OSError as error:
        raise CannotWrite(f"cannot write {link}: {error.strerror or error}") from error
