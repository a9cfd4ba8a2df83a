"""What is kept of one camera: its new frames, its windows of frames, and how far it was read.

    FOLDER/camera.json                    the cursor; faults in a row; not to be asked before
    FOLDER/open/TIME-NUMBER.jpg           frames, too few yet for a window
    FOLDER/windows/00000003/*.jpg         frames of a window, which never changes

A process may be killed anywhere. A frame is written before the cursor that is after it: after a
kill in between it comes again, and is then near-identical to the last one kept.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from search.cameras.deduplication import GreyPicture, grey_picture, near_identical
from search.cameras.sources import Cursor, Seen
from search.data.frames import read_image
from search.utils.files import CannotWrite, write_bytes
from search.utils.records import BadRecord, NoRecord, read_record, write_record
from spaces.errors import MergeSearchError
from spaces.inputs import Frame

JPEG_QUALITY = 95
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)


class BadFootage(MergeSearchError):
    """What was kept of a camera is not as it was written."""


class _Kept(NamedTuple):
    """A frame that was kept."""

    number: int
    picture: GreyPicture


class Recordings:
    """What is kept of one camera; one process writes it at a time.

    Raises:
        BadFootage: its camera.json is there and cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = folder / "open"
        self._windows = folder / "windows"
        self._state = _read_state(folder / "camera.json")
        self._last: _Kept | None = None

    @property
    def cursor(self) -> Cursor:
        return self._state.cursor

    @property
    def waiting(self) -> int:
        """How many frames are not in a window yet."""
        return len(_frames(self._open))

    def keep(self, seen: Seen) -> bool:
        """Take a frame in, unless it shows the same as the last one kept; returns whether.

        Raises:
            CannotWrite: the folder does not take files; nothing is taken in.
        """
        picture, last = grey_picture(seen.frame), self._last or self._newest()
        distinct = last is None or not near_identical(picture, last.picture)
        if distinct:
            last = _Kept(1 if last is None else last.number + 1, picture)
            write_bytes(self._open / _name(seen.when, last.number), _jpeg(seen.frame))
        self._last = last
        self.move(seen.cursor)
        return distinct

    def move(self, cursor: Cursor) -> None:
        """Go on from another cursor."""
        self._write(cursor=cursor)

    def close(self) -> int | None:
        """Make the waiting frames the next window, and return its number; None if there are none.

        Raises:
            CannotWrite: the folder cannot be changed.
        """
        if not self.waiting:
            return None
        number = max(self.windows(), default=0) + 1
        try:
            for left in self._open.glob(".*.part"):  # by a process that was killed
                left.unlink()
            self._windows.mkdir(exist_ok=True)
            self._open.rename(self.window(number))
        except OSError as error:
            raise _cannot_write(self.window(number), error) from error
        return number

    def windows(self) -> list[int]:
        """The numbers of the windows, in order."""
        found = self._windows.iterdir() if self._windows.is_dir() else ()
        return sorted(int(path.name) for path in found if re.fullmatch(r"\d{8}", path.name))

    def window(self, number: int) -> Path:
        """The folder with the frames of a window."""
        return self._windows / f"{number:08}"

    def prune(self, keep: Collection[int]) -> None:
        """Remove the windows that are not to be kept.

        The newest always stays: by it the next number is known, and the last frame kept.

        Raises:
            CannotWrite: the folder cannot be changed.
        """
        for number in self.windows()[:-1]:
            if number not in keep:
                # at once: half a window must not look like one
                hidden = self._windows / f".{number:08}"
                try:
                    self.window(number).rename(hidden)
                except OSError as error:
                    raise _cannot_write(self.window(number), error) from error
        for hidden in self._windows.glob(".*"):
            shutil.rmtree(hidden, ignore_errors=True)

    def failed(self, now: datetime) -> None:
        """Note a fault: the camera is not to be asked for a while, longer with each in a row."""
        faults = self._state.faults + 1
        doublings = min(faults - 1, 20)  # beyond the longest pause; a timedelta ends somewhere
        pause = min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE)
        self._write(faults=faults, not_before=(now + pause).isoformat())

    def well(self) -> None:
        """Note that the camera answers."""
        self._write(faults=0, not_before=None)

    def may_ask(self, now: datetime) -> bool:
        """Whether the pause after the last fault is over."""
        if self._state.not_before is None:
            return True
        left = datetime.fromisoformat(self._state.not_before) - now
        return not timedelta(0) < left <= LONGEST_PAUSE  # longer: the clock has been put back

    def _newest(self) -> _Kept | None:
        """The frame that was kept last, by this process or another."""
        for folder in (self._open, *map(self.window, reversed(self.windows()))):
            if kept := _frames(folder):
                newest = max(kept, key=_number)
                return _Kept(_number(newest), grey_picture(read_image(newest)))
        return None

    def _write(self, **changes: Any) -> None:
        state = replace(self._state, **changes)
        if state != self._state:
            write_record(self._folder / "camera.json", state)
            self._state = state


@dataclass(frozen=True)
class CameraState:
    """The record camera.json of a camera."""

    cursor: dict[str, Any]
    faults: int
    """Failed polls in a row."""
    not_before: str | None
    """When the camera may be asked again after a fault: ISO 8601."""


def _read_state(path: Path) -> CameraState:
    try:
        return read_record(CameraState, path)
    except NoRecord:
        return CameraState(cursor={}, faults=0, not_before=None)
    except BadRecord as error:
        raise BadFootage(
            f"{error}; remove the file, and the camera is read from its beginning"
        ) from error


def _frames(folder: Path) -> list[Path]:
    """The whole frames in a folder; hidden files are not."""
    return [path for path in folder.glob("*.jpg") if path.name[0] != "."]


def _name(when: str, number: int) -> str:
    """A file name that sorts by time, and then by the running number."""
    moment = datetime.fromisoformat(when).astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}-{number:08}.jpg"


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _jpeg(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "jpeg", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    return CannotWrite(f"cannot write {path}: {error.strerror or error}")
