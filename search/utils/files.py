"""Writes that matter: a temporary file, fsync, rename. A reader sees the old file or the new."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spaces.errors import MergeSearchError

FORGOTTEN = 3600.0
"""Seconds after which a temporary file is one that a killed process has left."""


class CannotWrite(MergeSearchError):
    """The output folder does not take files."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which then replaces the one at `path`.

    Raises:
        CannotWrite: the folder cannot be made or written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
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
def replacing_folder(path: Path, marker: str) -> Iterator[Path]:
    """A folder to fill, which then takes the place of the one at `path`.

    A folder that is there already must be empty, or one of ours: it holds a file named `marker`.

    Raises:
        CannotWrite: it is somebody else's, or nothing can be written there.
    """
    if path.exists() and not (path / marker).is_file() and (path.is_file() or any(path.iterdir())):
        raise CannotWrite(
            f"{path} holds other things: name a folder that is new or empty, or that holds a "
            f"{marker} to be replaced"
        )
    part, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        part.mkdir(parents=True)
        yield part
        for written in part.iterdir():
            with written.open("rb") as file:
                os.fsync(file.fileno())
            written.chmod(0o666 & ~_umask())  # some writers keep theirs to themselves
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _umask() -> int:
    """What the user's new files may not be; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sweep(path: Path) -> None:
    """Remove what processes that were killed while they wrote to `path` have left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > FORGOTTEN:
                left.unlink()


def link_or_copy(source: str, copy: str) -> None:
    """A second name for the file, which costs nothing; where there are no links, a copy."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copy2(source, copy)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path`, wholly or not at all.

    Raises:
        CannotWrite: the folder cannot be made or written to, or the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    write_bytes(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """As `write_json` writes it."""
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def make_folder(path: Path, key: str = "out") -> Path:
    """The folder that the config's `key` names, made if need be and known to take files."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise CannotWrite(
            f"{key} folder {path} cannot be written to: {error.strerror or error}; "
            f"set `{key}:` in the config to a folder of yours"
        ) from error
