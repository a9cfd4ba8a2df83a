"""Stored frames of one camera, grouped into windows, and the cursor up to which it was read.

    FOLDER/camera.json                    cursor; number of faults in a row; end of the pause
    FOLDER/open/TIME-NUMBER.jpg           frames that do not fill a window yet
    FOLDER/windows/00000003/*.jpg         frames of a window, which never changes

A process may be killed anywhere. Each frame is written before the cursor moves past it: after a
kill in between, the frame comes again and is skipped, since it is near-identical to the last one
stored.
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
from search.cameras.sources import CameraFrame, Cursor
from search.data.images import read_image
from search.utils.files import CannotWrite, write_bytes
from search.utils.records import BadRecord, NoRecord, read_record, write_record
from spaces.errors import MergeSearchError
from spaces.inputs import Frame

JPEG_QUALITY = 95
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)


class BadRecordings(MergeSearchError):
    """The stored state of a camera cannot be read."""


class _StoredFrame(NamedTuple):
    """The last frame stored."""

    number: int
    picture: GreyPicture


class Recordings:
    """Stored frames of one camera. Only one process at a time may write.

    Raises:
        BadRecordings: camera.json exists and cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = folder / "open"
        self._windows = folder / "windows"
        self._state = _read_state(folder / "camera.json")
        self._last: _StoredFrame | None = None

    @property
    def cursor(self) -> Cursor:
        return self._state.cursor

    @property
    def waiting(self) -> int:
        """Number of frames that are not in a window yet."""
        return len(_frames(self._open))

    def waiting_frames(self) -> list[Path]:
        """Return the files of the frames that are not in a window yet, in order."""
        return sorted(_frames(self._open))

    def add(self, new_frame: CameraFrame) -> bool:
        """Store a frame unless it is near-identical to the last one stored; return whether it
        was stored.

        Raises:
            CannotWrite: the folder cannot be written to; neither frame nor cursor is stored.
        """
        picture, last = grey_picture(new_frame.frame), self._last or self._newest()
        distinct = last is None or not near_identical(picture, last.picture)
        if distinct:
            last = _StoredFrame(1 if last is None else last.number + 1, picture)
            name = _name(new_frame.taken_at, last.number)
            write_bytes(self._open / name, _jpeg(new_frame.frame))
        self._last = last
        self.set_cursor(new_frame.cursor)
        return distinct

    def set_cursor(self, cursor: Cursor) -> None:
        """Resume from this cursor."""
        self._write(cursor=cursor)

    def close_window(self) -> int | None:
        """Make a window of the waiting frames and return its number; None if no frames wait.

        Raises:
            CannotWrite: the folder cannot be changed.
        """
        if not self.waiting:
            return None
        number = max(self.window_numbers(), default=0) + 1
        try:
            for leftover in self._open.glob(".*.part"):  # of a process that was killed
                leftover.unlink()
            self._windows.mkdir(exist_ok=True)
            self._open.rename(self.window_folder(number))
        except OSError as error:
            raise _cannot_write(self.window_folder(number), error) from error
        return number

    def window_numbers(self) -> list[int]:
        """Return the numbers of the windows in ascending order."""
        paths = self._windows.iterdir() if self._windows.is_dir() else ()
        return sorted(int(path.name) for path in paths if re.fullmatch(r"\d{8}", path.name))

    def window_folder(self, number: int) -> Path:
        """Return the folder with the frames of a window."""
        return self._windows / f"{number:08}"

    def prune(self, keep: Collection[int]) -> None:
        """Remove all windows but these.

        The newest window always stays: the next number and the last frame stored follow from it.

        Raises:
            CannotWrite: the folder cannot be changed.
        """
        for number in self.window_numbers()[:-1]:
            if number not in keep:
                # rename first: half a window must not look like a window
                hidden = self._windows / f".{number:08}"
                try:
                    self.window_folder(number).rename(hidden)
                except OSError as error:
                    raise _cannot_write(self.window_folder(number), error) from error
        for hidden in self._windows.glob(".*"):
            shutil.rmtree(hidden, ignore_errors=True)

    def record_fault(self, now: datetime) -> None:
        """Pause the camera after a fault, twice as long after each further one in a row."""
        faults = self._state.faults + 1
        doublings = min(faults - 1, 20)  # beyond the longest pause; larger timedeltas overflow
        pause = min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE)
        self._write(faults=faults, not_before=(now + pause).isoformat())

    def clear_fault(self) -> None:
        """Record that the camera answers."""
        self._write(faults=0, not_before=None)

    def may_poll(self, now: datetime) -> bool:
        """Whether the pause after the last fault is over."""
        if self._state.not_before is None:
            return True
        remaining = datetime.fromisoformat(self._state.not_before) - now
        return not timedelta(0) < remaining <= LONGEST_PAUSE  # longer: the clock was set back

    def _newest(self) -> _StoredFrame | None:
        """Load the frame stored last, by this process or another."""
        windows = map(self.window_folder, reversed(self.window_numbers()))
        for folder in (self._open, *windows):
            if frames := _frames(folder):
                newest = max(frames, key=_number)
                return _StoredFrame(_number(newest), grey_picture(read_image(newest)))
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
    """End of the pause after a fault: ISO 8601."""


def _read_state(path: Path) -> CameraState:
    try:
        return read_record(CameraState, path)
    except NoRecord:
        return CameraState(cursor={}, faults=0, not_before=None)
    except BadRecord as error:
        raise BadRecordings(
            f"{error}; delete the file to read the camera from its beginning"
        ) from error


def _frames(folder: Path) -> list[Path]:
    """Return the complete frames in a folder; hidden files are incomplete."""
    return [path for path in folder.glob("*.jpg") if path.name[0] != "."]


def _name(taken_at: str, number: int) -> str:
    """Return a file name that sorts by time, then by number."""
    moment = datetime.fromisoformat(taken_at).astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}-{number:08}.jpg"


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _jpeg(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "jpeg", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    return CannotWrite(f"cannot write {path}: {error.strerror or error}")
