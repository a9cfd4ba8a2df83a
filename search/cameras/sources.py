"""Cameras: sources of new frames that can be polled, and cursors that say how far each was read.

A cursor is plain data that fits into JSON; `{}` starts from the beginning. Persist the cursor
between polls to get every frame exactly once. A cursor from another camera type is treated as
empty.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from search.cameras.file_history import FileHistory
from search.cameras.files import (
    FileStamp,
    Thinning,
    iso,
    nanoseconds,
    split_future,
    stamp_of,
    without_second_names,
)
from search.cameras.video import BadVideo, frames_of_file, frames_of_stream
from search.data.image_folders import visible_files
from search.data.images import IMAGE_SUFFIXES, BadFrames, read_image
from search.data.synthetic.scenes import SceneSettings, render
from spaces.errors import MergeSearchError
from spaces.inputs import Frame

Cursor = dict[str, Any]
NO_FRAME = -1.0
"""How far a damaged image has been read."""


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

    Every image comes once, in order of modification time, then of name, as far as the images are
    there; one that arrives with an older time comes late. Of images less than `every` seconds
    apart the first is taken, and the last before a pause of `every` seconds; with 0 all are.
    Hidden files are ignored: copying programs give such names to unfinished copies. Linked
    folders are followed.

    Cursor: `folder`, the files that have been read (`FileHistory`).
    """

    folder: Path
    every: float

    def poll(self, cursor: Cursor) -> Iterator[CameraFrame]:
        stamps, problems = split_future(self._stamps())
        history = FileHistory.parse(cursor.get("folder")).renamed(stamps)
        thinning = Thinning(nanoseconds(self.every), stamps, history.frame_times())
        resume_from = cursor
        for stamp in history.unread(stamps):
            if thinning.leaves_out(stamp):
                continue
            try:
                frame = read_image(self.folder / stamp.file)
            except BadFrames as error:
                if stamp.may_be_unfinished:
                    break
                if (self.folder / stamp.file).exists():
                    problems.append(str(error))
                    history.add(stamp, NO_FRAME, complete=True)
                    resume_from = {"folder": history.as_dict()}
                continue
            thinning.add(stamp)
            history.add(stamp, 0.0, complete=True)
            resume_from = {"folder": history.as_dict()}
            yield CameraFrame(frame, stamp.time, resume_from, tuple(problems))
        raise_if_any(problems, resume_from)

    def _stamps(self) -> Iterator[FileStamp]:
        if not self.folder.is_dir():
            raise CameraFault(
                f"camera folder {self.folder}: no such folder; check the path and its mount"
            )
        for parent, names in visible_files(self.folder, _fail_on(self.folder)):
            below = os.path.relpath(parent, self.folder).removeprefix(".")
            for name in names:
                if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                    yield from stamp_of(os.path.join(parent, name), os.path.join(below, name))


@dataclass(frozen=True)
class VideoCamera:
    """A video file, or all files that match a glob pattern, as recorders write them in turn.

    Every file is read once, in order of modification time, then of name, as far as the files are
    there. A file that has grown is resumed, also while others grow. A frame is taken every
    `every` seconds of each file.

    Cursor: `video`, the files that have been read (`FileHistory`).
    """

    pattern: str
    every: float

    def poll(self, cursor: Cursor) -> Iterator[CameraFrame]:
        stamps, problems = split_future(self._stamps())
        history = FileHistory.parse(cursor.get("video")).renamed(stamps)
        resume_from = cursor
        for stamp in history.unread(stamps):
            reached = history.reached(stamp)
            history.sample(stamp)
            try:
                for seconds, frame, end in self._frames(stamp, reached):
                    history.add(stamp, seconds, end)
                    resume_from = {"video": history.as_dict()}
                    yield CameraFrame(frame, stamp.time, resume_from, tuple(problems))
            except BadVideo as error:
                if stamp.may_be_unfinished:
                    break
                if Path(stamp.file).exists():
                    problems.append(str(error))
                    history.add(stamp, history.reached(stamp), complete=True)
                    resume_from = {"video": history.as_dict()}
        raise_if_any(problems, resume_from)

    def _frames(self, stamp: FileStamp, after: float) -> Iterator[tuple[float, Frame, bool]]:
        """Yield the frames of one file with their seconds, and whether no more will come.

        Raises:
            BadVideo: the file is damaged; raised after all its frames. If the file may be
                unfinished, more may come after the last one.
        """
        damage: BadVideo | None = None
        pending: tuple[float, Frame] | None = None  # until it is clear whether it is the last
        try:
            for sampled in frames_of_file(Path(stamp.file), self.every, after):
                if pending:
                    yield *pending, False
                pending = sampled
        except BadVideo as error:
            damage = error
        if pending:
            yield *pending, damage is None or not stamp.may_be_unfinished
        if damage:
            raise damage

    def _stamps(self) -> Iterator[FileStamp]:
        is_file = Path(self.pattern).is_file()
        names = [self.pattern] if is_file else glob.glob(self.pattern, recursive=True)
        if not names:
            raise CameraFault(
                f"camera video {self.pattern}: no such file; check the path or pattern"
            )
        for name in without_second_names(names):
            yield from stamp_of(name, name)


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
                yield CameraFrame(frame, iso(time.time_ns()), cursor)
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
            yield CameraFrame(frame, iso(time.time_ns()), {"scenes": index + 1})


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
