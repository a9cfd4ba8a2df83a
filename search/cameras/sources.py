"""Cameras: sources of new frames that can be polled, and cursors that say how far each was read.

A cursor is plain data that fits into JSON; `{}` starts from the beginning. Persist the cursor
between polls to get every frame exactly once. A cursor from another camera type is treated as
empty.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from search.cameras.video import BadVideo, frames_of_file, frames_of_stream
from search.data.images import IMAGE_SUFFIXES, BadFrames, read_image
from search.data.synthetic.scenes import SceneSettings, render
from search.utils.timing import EPOCH
from spaces.errors import MergeSearchError
from spaces.inputs import Frame

SETTLING_TIME = 60.0
"""Seconds since a file's last change within which another program may still be writing it."""

Cursor = dict[str, Any]


@dataclass(frozen=True)
class CameraFrame:
    """A new frame of a camera."""

    frame: Frame
    """uint8 (H, W, 3) RGB."""
    taken_at: str
    """ISO 8601 in UTC, to milliseconds: when the file that holds the frame was last written; for
    streams and scenes, when the frame arrived."""
    cursor: Cursor
    """Where to resume after this frame."""
    problems: tuple[str, ...] = ()
    """Faults met between the start of the poll and this frame, for a poll that stops here."""


class CameraFault(MergeSearchError):
    """One camera has a fault; the others go on.

    If `resume_from` is a cursor, the camera itself works: the fault lies before that cursor and
    is not met again by a poll that starts there. If it is None, poll again later.
    """

    def __init__(self, message: str, resume_from: Cursor | None = None) -> None:
        super().__init__(message)
        self.resume_from = resume_from


class Camera(Protocol):
    """A source of new frames."""

    def poll(self, cursor: Cursor) -> Iterator[CameraFrame]:
        """Yield the frames after the cursor, oldest first.

        Raises:
            CameraFault: the camera has a fault; raised after all frames that could be read.
        """
        ...


@dataclass(frozen=True)
class FolderCamera:
    """Images that another program puts into a folder, or into folders below it.

    Frames come in order of modification time, then of name. Of images less than `every` seconds
    apart only the first is taken; with 0 all are. An image that arrives with an older
    modification time than one already taken is never taken. Hidden files are ignored: copying
    programs give such names to unfinished copies.

    Cursor: `folder`, with the `mtime` (ns) and the relative path `file` of the last image.
    """

    folder: Path
    every: float

    def poll(self, cursor: Cursor) -> Iterator[CameraFrame]:
        stamps, problems = _split_future(self._stamps())
        resume_from, last = cursor, _stamp_in(cursor.get("folder"))
        for stamp in stamps:
            if last and (stamp <= last or stamp.mtime < last.mtime + _nanoseconds(self.every)):
                continue
            try:
                frame = read_image(self.folder / stamp.file)
            except BadFrames as error:
                if stamp.may_be_unfinished:
                    break
                if (self.folder / stamp.file).exists():
                    problems.append(str(error))
                    resume_from = {"folder": stamp.as_dict}
                continue
            resume_from, last = {"folder": stamp.as_dict}, stamp
            yield CameraFrame(frame, stamp.time, resume_from, tuple(problems))
        raise_if_any(problems, resume_from)

    def _stamps(self) -> Iterator[_FileStamp]:
        if not self.folder.is_dir():
            raise CameraFault(
                f"camera folder {self.folder}: no such folder; check the path and its mount"
            )
        for parent, folders, names in os.walk(self.folder, onerror=_fail_on(self.folder)):
            folders[:] = [name for name in folders if name[0] != "."]
            below = os.path.relpath(parent, self.folder).removeprefix(".")
            for name in names:
                if name[0] != "." and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                    yield from _stamp_of(os.path.join(parent, name), os.path.join(below, name))


@dataclass(frozen=True)
class VideoCamera:
    """A video file, or all files that match a glob pattern, as recorders write them in turn.

    Files come in order of modification time, then of name. If the file read last has grown, it
    is resumed. A frame is taken every `every` seconds of each file.

    Cursor: `video`, with the `file`, its `mtime` (ns) when it was opened, the `seconds` of it
    that have been read, and whether that was all of it (`end`).
    """

    pattern: str
    every: float

    def poll(self, cursor: Cursor) -> Iterator[CameraFrame]:
        stamps, problems = _split_future(self._stamps())
        resume_from, last = cursor, cursor.get("video")
        for stamp in stamps:
            if last and _already_read(stamp, last):
                continue
            reached = last["seconds"] if last and last["file"] == stamp.file else -1.0
            try:
                for new_frame in self._frames(stamp, reached):
                    resume_from, reached = new_frame.cursor, new_frame.cursor["video"]["seconds"]
                    yield replace(new_frame, problems=tuple(problems))
            except BadVideo as error:
                if stamp.may_be_unfinished:
                    break
                if Path(stamp.file).exists():
                    problems.append(str(error))
                    resume_from = _video_cursor(stamp, reached, end=True)
        raise_if_any(problems, resume_from)

    def _frames(self, stamp: _FileStamp, after: float) -> Iterator[CameraFrame]:
        """Yield the frames of one file; the last one's cursor says that there are no more.

        Raises:
            BadVideo: the file is damaged; raised after all its frames. If the file may be
                unfinished, the last cursor then says that more may come.
        """
        damage: BadVideo | None = None
        pending: tuple[float, Frame] | None = None  # until it is clear whether it is the last
        try:
            for sampled in frames_of_file(Path(stamp.file), self.every, after):
                if pending:
                    yield self._camera_frame(stamp, *pending, end=False)
                pending = sampled
        except BadVideo as error:
            damage = error
        if pending:
            end = damage is None or not stamp.may_be_unfinished
            yield self._camera_frame(stamp, *pending, end=end)
        if damage:
            raise damage

    def _camera_frame(
        self, stamp: _FileStamp, seconds: float, frame: Frame, end: bool
    ) -> CameraFrame:
        return CameraFrame(frame, stamp.time, _video_cursor(stamp, seconds, end))

    def _stamps(self) -> Iterator[_FileStamp]:
        is_file = Path(self.pattern).is_file()
        names = [self.pattern] if is_file else glob.glob(self.pattern, recursive=True)
        if not names:
            raise CameraFault(
                f"camera video {self.pattern}: no such file; check the path or pattern"
            )
        for name in names:
            yield from _stamp_of(name, name)


@dataclass(frozen=True)
class StreamCamera:
    """A network stream: a frame every `every` seconds, a fault after `patience` seconds of none.

    A poll only ends with a fault. The cursor never changes: frames that are not read are lost.
    """

    url: str
    every: float
    patience: float

    def poll(self, cursor: Cursor) -> Iterator[CameraFrame]:
        try:
            for frame in frames_of_stream(self.url, self.every, self.patience):
                yield CameraFrame(frame, _iso(time.time_ns()), cursor)
        except BadVideo as error:
            raise CameraFault(str(error)) from None


@dataclass(frozen=True)
class SceneCamera:
    """Rendered scenes, `count` new ones per poll: the camera whose frames can be reproduced.

    Cursor: `scenes`, the index of the next scene.
    """

    settings: SceneSettings
    count: int

    def poll(self, cursor: Cursor) -> Iterator[CameraFrame]:
        first = cursor.get("scenes", 0)
        for index in range(first, first + self.count):
            frame = render(self.settings, index).image
            yield CameraFrame(frame, _iso(time.time_ns()), {"scenes": index + 1})


class _FileStamp(NamedTuple):
    """A file's modification time (ns) and name, which order files. A tuple: a folder may hold
    100000 files."""

    mtime: int
    file: str

    @property
    def as_dict(self) -> dict[str, Any]:
        return {"mtime": self.mtime, "file": self.file}

    @property
    def time(self) -> str:
        return _iso(self.mtime)

    @property
    def in_future(self) -> bool:
        return self.mtime > time.time_ns() + _nanoseconds(SETTLING_TIME)

    @property
    def may_be_unfinished(self) -> bool:
        return self.mtime > time.time_ns() - _nanoseconds(SETTLING_TIME)


def _stamp_in(data: dict[str, Any] | None) -> _FileStamp | None:
    return _FileStamp(data["mtime"], data["file"]) if data else None


def _stamp_of(path: str, name: str) -> Iterator[_FileStamp]:
    """Yield the stamp of a file under the given name; nothing if the file has been deleted."""
    try:
        yield _FileStamp(os.stat(path).st_mtime_ns, name)
    except FileNotFoundError:
        return


def _split_future(stamps: Iterable[_FileStamp]) -> tuple[list[_FileStamp], list[str]]:
    """Return the files in order, without files from the future, and a problem for each of these.

    With a cursor on a file from the future, all later files would lie behind the cursor.
    """
    ordered = sorted(stamps)
    future = [stamp for stamp in ordered if stamp.in_future]
    return ordered[: len(ordered) - len(future)], [
        f"{stamp.file}: its modification time is in the future ({stamp.time}); set the clock of "
        "the machine that writes it"
        for stamp in future
    ]


def _video_cursor(stamp: _FileStamp, seconds: float, end: bool) -> Cursor:
    return {"video": stamp.as_dict | {"seconds": seconds, "end": end}}


def _already_read(stamp: _FileStamp, last: dict[str, Any]) -> bool:
    """Whether the cursor's data lies at the end of this file, or in a later file."""
    if stamp.file == last["file"]:
        return stamp.mtime == last["mtime"] and bool(last["end"])
    return stamp < _FileStamp(last["mtime"], last["file"])


def raise_if_any(problems: Sequence[str], resume_from: Cursor) -> None:
    """Raise a fault for problems with files, if there are any."""
    if problems:
        more = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
        raise CameraFault(problems[0] + more, resume_from)


def _fail_on(folder: Path) -> Callable[[OSError], None]:
    """Return an error handler for `os.walk` that ignores folders deleted during the walk."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            where = error.filename or folder
            raise CameraFault(f"camera folder {where}: cannot be read ({error.strerror})")

    return fail


def _nanoseconds(seconds: float) -> int:
    """Convert a duration in seconds to whole nanoseconds.

    Modification times stay integers: as float64, today's are 256 ns apart, and sums of them with
    a duration round to either side.
    """
    return round(seconds * 1e9)


def _iso(nanoseconds: int) -> str:
    """Format nanoseconds since 1970 as ISO 8601 in UTC, cut to milliseconds."""
    moment = EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="milliseconds")
