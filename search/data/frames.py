"""Camera frames: ordered, hashed sets of pictures, read from a folder or rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

from search.data.image_folders import read_folder
from search.data.images import (
    IMAGE_SUFFIXES,
    ImageFile,
    Picture,
    Reduction,
    describe_damage,
    read_picture,
    whole_size,
)
from search.data.images import BadFrames as BadFrames
from search.data.synthetic.scenes import RENDERER_VERSION, Scene, SceneSettings, render
from spaces.inputs import Frame

LATER_HELD_OUT_DIVISOR = 4
"""Every part but the first holds out at most its frame count divided by this."""


class FrameSet(Protocol):
    """Frames in a fixed order."""

    @property
    def hash(self) -> str:
        """16 hex digits that change when the content of any frame changes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...

    def identities(self) -> Sequence[Hashable]:
        """Return a key per frame that says where it comes from: its file, or its settings."""
        ...

    def content_keys(self) -> Sequence[Hashable]:
        """Return a key per frame that changes with its content and not with its location."""
        ...


@dataclass(frozen=True)
class Remarks:
    """What a user should know about the files of a frame set, in words."""

    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __add__(self, other: Remarks) -> Remarks:
        """Return the remarks of both, each once."""
        return Remarks(
            tuple(dict.fromkeys((*self.notes, *other.notes))),
            tuple(dict.fromkeys((*self.warnings, *other.warnings))),
        )


NO_REMARKS = Remarks()


@dataclass(frozen=True)
class Sampling:
    """Which of the available frames are used: every `stride`-th from `offset`, at most `count`."""

    count: int | None = None
    stride: int = 1
    offset: int = 0

    def indices(self, available: int) -> range:
        """Return the indices to use; if more than `count` remain, spread the choice evenly."""
        candidates = range(self.offset, available, self.stride)
        if self.count is None or len(candidates) <= self.count:
            return candidates
        step = len(candidates) // self.count
        return candidates[: step * self.count : step]


@dataclass(frozen=True)
class ImageFiles:
    """Frames in image files."""

    paths: tuple[ImageFile, ...]
    remarks: Remarks = field(default=NO_REMARKS, compare=False, repr=False)
    checked_digests: tuple[bytes, ...] = field(default=(), compare=False, repr=False)
    """The SHA-256 of each file, if all have been checked for damage."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Frame:
        return self.picture(index, whole_size).pixels

    def picture(self, index: int, reduction: Reduction) -> Picture:
        """Return a frame, with fewer pixels if they may be fewer, see `read_picture`."""
        path = self.paths[index]
        try:
            return read_picture(path, reduction)
        except BadFrames as error:
            if not self.checked_digests:
                raise
            raise BadFrames(
                f"image {path}: could be read when the frames were checked, and cannot any more "
                f"({describe_damage(error.__cause__)}); put it back, and start the command again"
            ) from error

    @cached_property
    def hash(self) -> str:
        return _short_hash(b"".join(self.digests))

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """The SHA-256 of each file."""
        return self.checked_digests or tuple(
            hashlib.sha256(_file_bytes(path)).digest() for path in self.paths
        )

    def identities(self) -> Sequence[Hashable]:
        return [path.resolve() for path in self.paths]

    def content_keys(self) -> Sequence[Hashable]:
        return [digest.hex() for digest in self.digests]


@dataclass(frozen=True)
class RenderedScenes:
    """Frames from the renderer; each depends only on the settings and its index."""

    settings: SceneSettings
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Frame:
        return cached_scene(self.settings, index).image

    @cached_property
    def hash(self) -> str:
        return _short_hash(f"scenes {RENDERER_VERSION} {self.settings!r} {self.count}".encode())

    def identities(self) -> Sequence[Hashable]:
        return [(self.settings, index) for index in range(self.count)]

    def content_keys(self) -> Sequence[Hashable]:
        return self.identities()


@dataclass(frozen=True)
class Subset:
    """Some frames of another set, by their indices in it."""

    frames: FrameSet
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[self.indices[index]]

    @cached_property
    def hash(self) -> str:
        return _short_hash(f"{self.frames.hash} {self.indices}".encode())

    def identities(self) -> Sequence[Hashable]:
        return self._selected(self.frames.identities())

    def content_keys(self) -> Sequence[Hashable]:
        return self._selected(self.frames.content_keys())

    def _selected(self, keys: Sequence[Hashable]) -> Sequence[Hashable]:
        return [keys[index] for index in self.indices]


@dataclass(frozen=True)
class JoinedFrames:
    """The frames of several sets (the parts), one after another."""

    parts: tuple[FrameSet, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> Frame:
        part, index = self.find(index)
        return part[index]

    def find(self, index: int) -> tuple[FrameSet, int]:
        """Return the part that holds a frame, and the index of the frame in it."""
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError("beyond the last frame")

    @cached_property
    def hash(self) -> str:
        if len(self.parts) == 1:
            return self.parts[0].hash
        return _short_hash(" ".join(part.hash for part in self.parts).encode())

    def identities(self) -> Sequence[Hashable]:
        return [key for part in self.parts for key in part.identities()]

    def content_keys(self) -> Sequence[Hashable]:
        return [key for part in self.parts for key in part.content_keys()]


def frames_at(frames: FrameSet, indices: Sequence[int]) -> FrameSet:
    """Return some frames of a set, in this order, as a set that names no other file."""
    if isinstance(frames, Subset):
        return frames_at(frames.frames, [frames.indices[index] for index in indices])
    if isinstance(frames, JoinedFrames):
        located = map(frames.find, indices)
        return JoinedFrames(tuple(frames_at(part, [own_index]) for part, own_index in located))
    if isinstance(frames, ImageFiles):
        paths, digests = frames.paths, frames.checked_digests
        return ImageFiles(
            tuple(paths[index] for index in indices),
            checked_digests=tuple(digests[index] for index in indices) if digests else (),
        )
    return Subset(frames, tuple(indices))


def picture_of(frames: FrameSet, index: int, reduction: Reduction) -> Picture:
    """Return a frame for networks that need no more pixels than `reduction` leaves.

    Only JPEG files are read with fewer.
    """
    if isinstance(frames, Subset):
        return picture_of(frames.frames, frames.indices[index], reduction)
    if isinstance(frames, JoinedFrames):
        return picture_of(*frames.find(index), reduction)
    if isinstance(frames, ImageFiles):
        return frames.picture(index, reduction)
    frame = frames[index]
    return Picture(frame, (frame.shape[0], frame.shape[1]))


def content_of(frames: FrameSet, index: int) -> Hashable | None:
    """Return a key that changes with a frame's content; None if only reading it would tell."""
    if isinstance(frames, Subset):
        return content_of(frames.frames, frames.indices[index])
    if isinstance(frames, JoinedFrames):
        return content_of(*frames.find(index))
    if isinstance(frames, ImageFiles):
        return frames.checked_digests[index] if frames.checked_digests else None
    if isinstance(frames, RenderedScenes):
        return frames.settings, index
    return None


def summarise_frames(frames: FrameSet) -> dict[str, Any]:
    """Return the record of a frame set in results: `hash` and `count`."""
    return {"hash": frames.hash, "count": len(frames)}


def parts_of(frames: FrameSet) -> tuple[FrameSet, ...]:
    """Return the parts of joined frames; any other frame set is its own only part."""
    return frames.parts if isinstance(frames, JoinedFrames) else (frames,)


def split_parts(frames: FrameSet, held_out: int) -> list[tuple[Subset, Subset]]:
    """Split each part into frames for the statistics and held-out frames.

    A part is split on its own, so later parts do not change its split. The first part holds out
    `held_out` frames, as if it were the only one; every other part holds out as many, but at most
    a quarter of its frames.

    Raises:
        BadFrames: a part would have no frames left for the statistics.
    """
    first, *later = parts_of(frames)
    counts = [max(1, min(held_out, len(part) // LATER_HELD_OUT_DIVISOR)) for part in later]
    return [
        _split_part(first, held_out),
        *(_split_part(part, count) for part, count in zip(later, counts, strict=True)),
    ]


def split_frames(frames: FrameSet, held_out: int) -> tuple[Subset, Subset]:
    """Split frames into those for the statistics and `held_out` evenly spread others.

    Joined frames are split by `split_parts`.

    Raises:
        BadFrames: no frames would be left for the statistics.
    """
    if isinstance(frames, JoinedFrames):
        for_statistics, held_outs = zip(*split_parts(frames, held_out), strict=True)
        return _joined_subset(frames, for_statistics), _joined_subset(frames, held_outs)
    return _split_part(frames, held_out)


def _split_part(frames: FrameSet, held_out: int) -> tuple[Subset, Subset]:
    if len(frames) <= held_out:
        raise BadFrames(
            f"{len(frames)} frames, of which verify.fidelity_frames keeps {held_out} for fidelity:"
            " none are left for the statistics; give more frames"
        )
    chosen = set(Sampling(held_out).indices(len(frames)))
    others = tuple(i for i in range(len(frames)) if i not in chosen)
    return Subset(frames, others), Subset(frames, tuple(sorted(chosen)))


def _joined_subset(joined: JoinedFrames, subsets: Sequence[Subset]) -> Subset:
    """Return the union of one subset per part, as a subset of the joined frames."""
    indices: list[int] = []
    start = 0
    for part, subset in zip(joined.parts, subsets, strict=True):
        indices += (start + k for k in subset.indices)
        start += len(part)
    return Subset(joined, tuple(indices))


@lru_cache(maxsize=512)
def cached_scene(settings: SceneSettings, index: int) -> Scene:
    """Return a rendered scene; cached, because labels and pictures are read separately."""
    return render(settings, index)


def folder_frames(folder: Path, sampling: Sampling) -> ImageFiles:
    """Return the images in a folder and its sub-folders, ordered by path.

    Raises:
        BadFrames: the folder does not exist, or holds no images.
    """
    if not folder.is_dir():
        raise BadFrames(f"frames folder {folder}: there is no such folder")
    content = read_folder(folder)
    where = f"frames folder {folder}"
    return sampled_images(where, content.images, content.remarks(), sampling)


def sampled_images(
    where: str, images: Sequence[ImageFile], remarks: Sequence[str], sampling: Sampling
) -> ImageFiles:
    """Return some of the images of a folder; `where` names it in messages and remarks.

    Raises:
        BadFrames: there are no images, or the sampling skips all of them.
    """
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BadFrames(f"{where}: holds no images ({suffixes})")
    indices = sampling.indices(len(images))
    if not indices:
        raise BadFrames(f"{where}: offset {sampling.offset} skips all of its {len(images)} images")
    notes = tuple(f"{where}: {remark}" for remark in remarks)
    return ImageFiles(tuple(images[i] for i in indices), Remarks(notes))


def remarks_of(frames: FrameSet) -> Remarks:
    """Return the remarks on all files of a frame set."""
    if isinstance(frames, ImageFiles):
        return frames.remarks
    if isinstance(frames, Subset):
        return remarks_of(frames.frames)
    if isinstance(frames, JoinedFrames):
        return sum(map(remarks_of, frames.parts), NO_REMARKS)
    return NO_REMARKS


def count_overlap(first: FrameSet, second: FrameSet) -> int:
    """Return how many frames of `first` are in `second`, compared by `identities`."""
    shared = set(second.identities())
    return sum(identity in shared for identity in first.identities())


def count_duplicates(frames: FrameSet) -> int:
    """Return how many frames repeat an earlier one of the set, compared by `identities`."""
    identities = frames.identities()
    return len(identities) - len(set(identities))


def batches(frames: FrameSet, size: int) -> Iterator[tuple[range, list[Frame]]]:
    """Yield consecutive batches with the indices of their frames; the last may be smaller."""
    for indices in batch_ranges(len(frames), size):
        yield indices, [frames[i] for i in indices]


def batch_ranges(count: int, size: int) -> list[range]:
    """Return `count` indices in consecutive batches; the last may be smaller."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _file_bytes(path: ImageFile) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFrames(f"image {path}: cannot be read ({describe_damage(error)})") from error
