"""Files of cameras in the order of their modification times."""

from __future__ import annotations

import bisect
import os
import stat
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO, NamedTuple

from search.utils.timing import EPOCH

SETTLING_TIME = 60.0
"""Seconds since a file's last change within which another program may still be writing it."""

SAMPLED_BLOCKS = 8
BLOCK_SIZE = 512
"""Bytes."""


class FileStamp(NamedTuple):
    """A file's modification time (ns), name and size, which order files. A tuple: a folder may
    hold 100000 files."""

    mtime: int
    file: str
    size: int

    @property
    def time(self) -> str:
        return iso(self.mtime)

    @property
    def in_future(self) -> bool:
        return self.mtime > time.time_ns() + nanoseconds(SETTLING_TIME)

    @property
    def may_be_unfinished(self) -> bool:
        return self.mtime > time.time_ns() - nanoseconds(SETTLING_TIME)


@dataclass(frozen=True)
class Thinning:
    """Leaves images out, so that frames are about `every` ns apart.

    The last image before a pause is not left out: it shows what came of the others.
    """

    every: int
    stamps: Sequence[FileStamp]
    """All files of the camera, in order."""
    frame_times: list[int]
    """Modification times, in order, of the files that gave frames."""

    def leaves_out(self, stamp: FileStamp) -> bool:
        """Whether another frame is near, and this is not the last image before a pause."""
        return self._is_near_a_frame(stamp.mtime) and not self._is_before_a_pause(stamp)

    def add(self, stamp: FileStamp) -> None:
        """Note that a file gave a frame."""
        bisect.insort(self.frame_times, stamp.mtime)

    def _is_near_a_frame(self, mtime: int) -> bool:
        later = bisect.bisect_left(self.frame_times, mtime)
        neighbours = self.frame_times[max(later - 1, 0) : later + 1]
        return any(abs(mtime - frame_time) < self.every for frame_time in neighbours)

    def _is_before_a_pause(self, stamp: FileStamp) -> bool:
        following = bisect.bisect_right(self.stamps, stamp)
        at_end = following == len(self.stamps)
        next_time = time.time_ns() if at_end else self.stamps[following].mtime
        return next_time - stamp.mtime >= self.every


def stamp_of(path: str, name: str) -> Iterator[FileStamp]:
    """Yield the stamp of a file under the given name; nothing if the file has been deleted."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield FileStamp(status.st_mtime_ns, name, status.st_size)


def sample_content(path: str, size: int) -> list[int]:
    """Return checksums of blocks spread over the first `size` bytes; none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return [
                _block_checksum(file, k * size // SAMPLED_BLOCKS) for k in range(SAMPLED_BLOCKS)
            ]
    except OSError:
        return []


def _block_checksum(file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    return zlib.crc32(file.read(BLOCK_SIZE))


def without_second_names(names: Iterable[str]) -> list[str]:
    """Return one name of each file, the shortest: linked folders give files several names."""
    shortest: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (len(name), name)):
        shortest.setdefault(os.path.realpath(name), name)
    return list(shortest.values())


def split_future(stamps: Iterable[FileStamp]) -> tuple[list[FileStamp], list[str]]:
    """Return the files in order, without files from the future, and a problem for each of these.

    Their times would be wrong in the recordings.
    """
    ordered = sorted(stamps)
    future = [stamp for stamp in ordered if stamp.in_future]
    return ordered[: len(ordered) - len(future)], [
        f"{stamp.file}: its modification time is in the future ({stamp.time}); set the clock of "
        "the machine that writes it"
        for stamp in future
    ]


def nanoseconds(seconds: float) -> int:
    """Convert a duration in seconds to whole nanoseconds.

    Modification times stay integers: as float64, today's are 256 ns apart, and sums of them with
    a duration round to either side.
    """
    return round(seconds * 1e9)


def iso(time_ns: int) -> str:
    """Format nanoseconds since 1970 as ISO 8601 in UTC, cut to milliseconds."""
    moment = EPOCH + timedelta(microseconds=time_ns // 1000)
    return moment.isoformat(timespec="milliseconds")
