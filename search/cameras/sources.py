"""Cameras: where new frames come from, and how far each of them has been read.

A cursor says how far: plain data that fits into JSON, `{}` at first. Who keeps it from one look
to the next misses no frame and gets none twice. One of another kind of camera counts as `{}`.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from search.cameras.video import BadVideo, frames_of_file, frames_of_stream
from search.data.frames import IMAGE_SUFFIXES, BadFrames, read_image
from search.data.synthetic.scenes import SceneSettings, render
from spaces.errors import MergeSearchError
from spaces.inputs import Frame

YOUNG = 60.0
"""Seconds since a file's last change within which somebody may still be writing it."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Cursor = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A new frame, uint8 (H, W, 3) RGB; when it is from; and the cursor after it.

    `when` is ISO 8601 in UTC, to milliseconds: for a frame out of a file when that file was last
    written, for others when they were seen. `problems` are what was wrong on the way from the
    begin of the look to this frame, for who looks no further.
    """

    frame: Frame
    when: str
    cursor: Cursor
    problems: tuple[str, ...] = ()


class CameraFault(MergeSearchError):
    """Something is wrong with one camera; the others go on.

    With a cursor `passed`, the camera itself works: what was wrong lies before that cursor, and is
    not met again by who goes on from there. Without one, it should be asked again later.
    """

    def __init__(self, said: str, passed: Cursor | None = None) -> None:
        super().__init__(said)
        self.passed = passed


class Camera(Protocol):
    """Something that has new frames from time to time."""

    def look(self, cursor: Cursor) -> Iterator[Seen]:
        """The frames after the cursor, oldest first.

        Raises:
            CameraFault: in place of a normal end, after all frames that could be had.
        """
        ...


@dataclass(frozen=True)
class FolderCamera:
    """Images that somebody puts into a folder, or into folders below it.

    They come in the order of their times of modification, then of their names; of those less than
    `every` seconds apart only the first, with 0 all. An image that arrives with an older time
    than one that was taken is never taken. What is hidden is left alone: copying programs give
    such names to what they have not finished.

    Cursor: `folder`, with the `mtime` (ns) and the relative path `file` of the last image.
    """

    folder: Path
    every: float

    def look(self, cursor: Cursor) -> Iterator[Seen]:
        stamps, problems = _in_order(self._stamps())
        passed, last = cursor, _stamp_in(cursor.get("folder"))
        for stamp in stamps:
            if last and (stamp <= last or stamp.mtime < last.mtime + _nanoseconds(self.every)):
                continue
            try:
                frame = read_image(self.folder / stamp.file)
            except BadFrames as error:
                if stamp.unfinished:
                    break
                if (self.folder / stamp.file).exists():
                    problems.append(str(error))
                    passed = {"folder": stamp.data}
                continue
            passed, last = {"folder": stamp.data}, stamp
            yield Seen(frame, stamp.when, passed, tuple(problems))
        tell(problems, passed)

    def _stamps(self) -> Iterator[_Stamp]:
        if not self.folder.is_dir():
            raise CameraFault(f"camera folder {self.folder}: there is no such folder")
        for parent, folders, names in os.walk(self.folder, onerror=_unless_gone(self.folder)):
            folders[:] = [name for name in folders if name[0] != "."]
            below = os.path.relpath(parent, self.folder).removeprefix(".")
            for name in names:
                if name[0] != "." and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                    yield from _stamped(os.path.join(parent, name), os.path.join(below, name))


@dataclass(frozen=True)
class VideoCamera:
    """A video file, or all that a glob pattern matches, as recorders write one after another.

    They come in the order of their times of modification, then of their names. The file that was
    read last is read on when it has grown. A frame is taken every `every` seconds of each file.

    Cursor: `video`, with the `file`, its `mtime` (ns) when it was opened, the `seconds` of it that
    have been read, and whether that was all of it (`end`).
    """

    pattern: str
    every: float

    def look(self, cursor: Cursor) -> Iterator[Seen]:
        stamps, problems = _in_order(self._stamps())
        passed, last = cursor, cursor.get("video")
        for stamp in stamps:
            if last and _behind(stamp, last):
                continue
            reached = last["seconds"] if last and last["file"] == stamp.file else -1.0
            try:
                for seen in self._frames(stamp, reached):
                    passed, reached = seen.cursor, seen.cursor["video"]["seconds"]
                    yield replace(seen, problems=tuple(problems))
            except BadVideo as error:
                if stamp.unfinished:
                    break
                if Path(stamp.file).exists():
                    problems.append(str(error))
                    passed = {"video": stamp.data | {"seconds": reached, "end": True}}
        tell(problems, passed)

    def _frames(self, stamp: _Stamp, after: float) -> Iterator[Seen]:
        """The frames of one file; the cursor of the last says that there are no more.

        Raises:
            BadVideo: after them; of an unfinished file the cursor then says that more may come.
        """
        damage: BadVideo | None = None
        held: tuple[float, Frame] | None = None  # until it is known whether it is the last
        try:
            for each in frames_of_file(Path(stamp.file), self.every, after):
                if held:
                    yield self._seen(stamp, *held, end=False)
                held = each
        except BadVideo as error:
            damage = error
        if held:
            yield self._seen(stamp, *held, end=damage is None or not stamp.unfinished)
        if damage:
            raise damage

    def _seen(self, stamp: _Stamp, seconds: float, frame: Frame, end: bool) -> Seen:
        cursor = {"video": stamp.data | {"seconds": seconds, "end": end}}
        return Seen(frame, stamp.when, cursor)

    def _stamps(self) -> Iterator[_Stamp]:
        one = Path(self.pattern).is_file()
        names = [self.pattern] if one else glob.glob(self.pattern, recursive=True)
        if not names:
            raise CameraFault(f"camera video {self.pattern}: there is no such file")
        for name in names:
            yield from _stamped(name, name)


@dataclass(frozen=True)
class StreamCamera:
    """A network stream, a frame every `every` seconds; after `patience` seconds of none, a fault.

    Its look has no end but a fault. The cursor stays as it is: what nobody saw is gone.
    """

    url: str
    every: float
    patience: float

    def look(self, cursor: Cursor) -> Iterator[Seen]:
        try:
            for frame in frames_of_stream(self.url, self.every, self.patience):
                yield Seen(frame, _iso(time.time_ns()), cursor)
        except BadVideo as error:
            raise CameraFault(str(error)) from None


@dataclass(frozen=True)
class SceneCamera:
    """Rendered scenes, `count` new ones at every look: the camera that can be repeated.

    Cursor: `scenes`, the index of the next.
    """

    settings: SceneSettings
    count: int

    def look(self, cursor: Cursor) -> Iterator[Seen]:
        first = cursor.get("scenes", 0)
        for index in range(first, first + self.count):
            frame = render(self.settings, index).image
            yield Seen(frame, _iso(time.time_ns()), {"scenes": index + 1})


class _Stamp(NamedTuple):
    """A file's place in time, by which files are ordered. A tuple: there may be 100000."""

    mtime: int
    file: str

    @property
    def data(self) -> dict[str, Any]:
        return {"mtime": self.mtime, "file": self.file}

    @property
    def when(self) -> str:
        return _iso(self.mtime)

    @property
    def ahead(self) -> bool:
        return self.mtime > time.time_ns() + _nanoseconds(YOUNG)

    @property
    def unfinished(self) -> bool:
        return self.mtime > time.time_ns() - _nanoseconds(YOUNG)


def _stamp_in(data: dict[str, Any] | None) -> _Stamp | None:
    return _Stamp(data["mtime"], data["file"]) if data else None


def _stamped(path: str, name: str) -> Iterator[_Stamp]:
    """The stamp of a file that is known by a name; nothing if it has gone since it was listed."""
    try:
        yield _Stamp(os.stat(path).st_mtime_ns, name)
    except FileNotFoundError:
        return


def _in_order(stamps: Iterable[_Stamp]) -> tuple[list[_Stamp], list[str]]:
    """The files in order, and what is wrong with those from the future, which are left out.

    With a cursor on one of them, all that come later would lie behind it.
    """
    ordered = sorted(stamps)
    ahead = [stamp for stamp in ordered if stamp.ahead]
    return ordered[: len(ordered) - len(ahead)], [
        f"{stamp.file}: its time of modification is in the future ({stamp.when}); set the clock "
        "of the machine that writes it"
        for stamp in ahead
    ]


def _behind(stamp: _Stamp, last: dict[str, Any]) -> bool:
    """Whether a file has been read to its end, or another after it, by the cursor's data."""
    if stamp.file == last["file"]:
        return stamp.mtime == last["mtime"] and bool(last["end"])
    return stamp < _Stamp(last["mtime"], last["file"])


def tell(problems: Sequence[str], passed: Cursor) -> None:
    """Raise what was wrong with files, if anything was."""
    if problems:
        more = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
        raise CameraFault(problems[0] + more, passed)


def _unless_gone(folder: Path) -> Callable[[OSError], None]:
    """What `os.walk` does with a folder that cannot be read; old ones may go while it walks."""

    def tell(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            where = error.filename or folder
            raise CameraFault(f"camera folder {where}: cannot be read ({error.strerror})")

    return tell


def _nanoseconds(seconds: float) -> int:
    """Convert a duration in seconds to whole nanoseconds.

    Times of modification stay integers: as float64, today's are 256 ns apart, and sums of them
    with a duration round to either side.
    """
    return round(seconds * 1e9)


def _iso(nanoseconds: int) -> str:
    """Format nanoseconds since 1970 as ISO 8601 in UTC, cut to milliseconds."""
    moment = EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="milliseconds")
