"""Which files of a camera have been read: each is read once, in whatever order they arrive.

A file is recognised by its name, size and modification time. Copying programs may keep old
modification times, and clocks may be set back, so the newest time alone does not tell new files
from old ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from search.cameras.files import SAMPLED_BLOCKS, FileStamp, sample_content

MAX_FILES = 5000
"""Files that are remembered one by one; of older ones only the newest time is."""
FORGOTTEN_AT_A_TIME = 500
MAX_SAMPLED = 64
"""Recordings whose content is recognised when they have grown: those that were read last."""
MAX_OUTDATED = 500
"""Lines of the text that later lines may replace, before the text is written anew."""
TRUNCATION = 2_000_000_000
"""Nanoseconds by which a file system may cut a modification time off when it stores it: FAT."""
SEPARATOR = "\0"
"""Between the lines of the text of a history. No file name contains it. The files are one text,
which is written in a tenth of the time of a list or mapping, and a file that has been read adds a
line, so the others are not formatted again. Of several lines on a file the last one holds."""


class ReadFile(NamedTuple):
    """A file that has been read, as it was then."""

    mtime: int
    size: int
    """Bytes; -1 if an earlier version read it, which did not note the size."""
    seconds: float
    """How far it has been read; 0 for an image, -1 if it gave no frame."""
    complete: bool
    """Whether that was all of it."""

    def is_unchanged(self, stamp: FileStamp) -> bool:
        """Whether the file is still the same."""
        return self.size in (-1, stamp.size) and 0 <= self.mtime - stamp.mtime < TRUNCATION

    def line(self, name: str) -> str:
        """Return the line of the text of a history on this file."""
        return f"{self.mtime} {self.size} {self.seconds!r} {self.complete:d} {name}"


@dataclass
class FileHistory:
    """The files of a camera that have been read."""

    files: dict[str, ReadFile] = field(default_factory=dict)
    """By name, at most MAX_FILES."""
    forgotten: tuple[int, str] = (-1, "")
    """Modification time and name: files up to here count as read if they are not in `files`."""
    last: str = ""
    """The name of the file that was read last."""
    samples: dict[str, list[int]] = field(default_factory=dict)
    """What the newest recordings held when they were read, by name (`sample_content`)."""
    _text: str = field(default="", compare=False, repr=False)
    """The lines of all files."""
    _outdated: int = field(default=0, compare=False, repr=False)
    """How many lines later ones replace."""
    _newest: tuple[int, str] = field(default=(-1, ""), compare=False, repr=False)
    """Modification time and name of the newest file."""

    def __post_init__(self) -> None:
        self._write_anew()

    @classmethod
    def parse(cls, data: Mapping[str, Any] | None) -> FileHistory:
        """Read a history from a cursor; None is empty.

        Cursors of earlier versions name the last file only: all older ones count as read.
        """
        if not data:
            return cls()
        if "files" in data:
            mtime, name = data["forgotten"]
            files, samples = _parse_files(data["files"]), dict(data.get("samples", {}))
            return cls(files, (mtime, name), data["last"], samples)
        until, name = data["mtime"], data["file"]
        read = ReadFile(until, -1, data.get("seconds", 0.0), data.get("end", True))
        return cls({name: read}, (until, name), name)

    def as_dict(self) -> dict[str, Any]:
        """Return the history as the data of a cursor, which an earlier version can read too."""
        newest = self._newest[1]
        samples = {"samples": dict(self.samples)} if self.samples else {}
        return {
            **samples,
            "mtime": self.files[newest].mtime,
            "file": newest,
            "seconds": self.files[newest].seconds,
            "end": self.files[newest].complete,
            "last": self.last,
            "forgotten": list(self.forgotten),
            "files": self._text,
        }

    def unread(self, stamps: Sequence[FileStamp]) -> list[FileStamp]:
        """Return the files that have not been read, or not to their end, or have changed since."""
        return [stamp for stamp in stamps if not self._is_read(stamp)]

    def reached(self, stamp: FileStamp) -> float:
        """Return the seconds after which to go on in a recording; -1 to read all of it.

        A recording goes on if it was read last or not to its end, or begins with what was read;
        not if it has become smaller. Recorders that write in a ring overwrite the others.
        """
        read = self.files.get(stamp.file)
        if read is None or stamp.size < read.size:
            return -1.0
        goes_on = stamp.file == self.last or not read.complete or self._begins_alike(stamp, read)
        return read.seconds if goes_on else -1.0

    def sample(self, stamp: FileStamp) -> None:
        """Note what a recording holds, to recognise it when it has grown."""
        self.samples.pop(stamp.file, None)
        self.samples[stamp.file] = sample_content(stamp.file, stamp.size)
        for name in list(self.samples)[:-MAX_SAMPLED]:
            del self.samples[name]

    def _begins_alike(self, stamp: FileStamp, read: ReadFile) -> bool:
        """Whether most of what was read is still in the file: recorders rewrite the header, and
        the lengths of single blocks."""
        former = self.samples.get(stamp.file, [])
        present = sample_content(stamp.file, read.size)
        equal = sum(a == b for a, b in zip(former, present, strict=False))
        return equal > SAMPLED_BLOCKS // 2

    def add(self, stamp: FileStamp, seconds: float, complete: bool) -> None:
        """Note that a file has been read, up to this time in it."""
        read = ReadFile(stamp.mtime, stamp.size, seconds, complete)
        former = self.files.get(stamp.file)
        self.files[stamp.file] = read
        self.last = stamp.file
        self._outdated += former is not None
        if len(self.files) > MAX_FILES:
            self._forget_oldest()
        elif self._outdated > MAX_OUTDATED or (former and stamp.mtime < former.mtime):
            self._write_anew()
        else:
            line = read.line(stamp.file)
            self._text = f"{self._text}{SEPARATOR}{line}" if self._text else line
            self._newest = max(self._newest, (stamp.mtime, stamp.file))

    def renamed(self, stamps: Sequence[FileStamp]) -> FileHistory:
        """Return the history with files under their new names.

        A new name with the size and modification time of a file that has gone, or has made way
        for another, is that file.
        """
        present = {stamp.file: stamp for stamp in stamps}
        gone: dict[tuple[int, int], list[str]] = {}
        for name, read in self.files.items():
            if name not in present or not read.is_unchanged(present[name]):
                gone.setdefault((read.mtime, read.size), []).append(name)
        new_names: dict[str, str] = {}
        for stamp in stamps if gone else ():
            candidates = gone.get((stamp.mtime, stamp.size))
            if candidates and stamp.file not in self.files:
                old = min(candidates, key=lambda name: Path(name).name != Path(stamp.file).name)
                candidates.remove(old)
                new_names[old] = stamp.file
        files = {new_names.get(name, name): read for name, read in self.files.items()}
        samples = {new_names.get(name, name): of for name, of in self.samples.items()}
        return FileHistory(files, self.forgotten, new_names.get(self.last, self.last), samples)

    def frame_times(self) -> list[int]:
        """Return the modification times, in order, of the files that gave frames."""
        times = [read.mtime for read in self.files.values() if read.seconds >= 0]
        return sorted((*times, self.forgotten[0])) if self.forgotten[1] else sorted(times)

    def _is_read(self, stamp: FileStamp) -> bool:
        read = self.files.get(stamp.file)
        if read is not None:
            return read.complete and read.is_unchanged(stamp)
        return (stamp.mtime, stamp.file) <= self.forgotten

    def _forget_oldest(self) -> None:
        by_age = sorted(self.files, key=lambda name: (self.files[name].mtime, name))
        oldest = [name for name in by_age if name != self.last][:FORGOTTEN_AT_A_TIME]
        self.forgotten = max(self.forgotten, (self.files[oldest[-1]].mtime, oldest[-1]))
        for name in oldest:
            del self.files[name]
        self._write_anew()

    def _write_anew(self) -> None:
        """Write the lines of all files, without outdated ones."""
        self._text = SEPARATOR.join(read.line(name) for name, read in self.files.items())
        self._outdated = 0
        self._newest = max(
            ((read.mtime, name) for name, read in self.files.items()), default=(-1, "")
        )


def _parse_files(text: str) -> dict[str, ReadFile]:
    files = {}
    for line in text.split(SEPARATOR):
        mtime, size, seconds, complete, name = line.split(" ", 4)
        files[name] = ReadFile(int(mtime), int(size), float(seconds), complete == "1")
    return files
