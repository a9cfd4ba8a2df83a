"""Camera frames: an ordered, hashed set of pictures, from a folder or rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from search.data.synthetic.scenes import RENDERER_VERSION, Scene, SceneSettings, render
from spaces.errors import MergeSearchError
from spaces.inputs import Frame

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
LATER_UNSEEN = 4
"""One of so many frames at most is kept from the statistics, of every part but the first."""


class BadFrames(MergeSearchError):
    """Frames that cannot be found or read, or are too few."""


class FrameSet(Protocol):
    """Frames in a fixed order. `hash` changes when any frame's content does."""

    @property
    def hash(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...


@dataclass(frozen=True)
class Sampling:
    """Which of the frames at hand are taken: every `stride`-th from `offset`, `count` at most."""

    count: int | None = None
    stride: int = 1
    offset: int = 0

    def indices(self, available: int) -> range:
        """When more remain than `count`, those taken are spread evenly over all that remain."""
        taken = range(self.offset, available, self.stride)
        if self.count is None or len(taken) <= self.count:
            return taken
        step = len(taken) // self.count
        return taken[: step * self.count : step]


@dataclass(frozen=True)
class ImageFiles:
    """Frames in image files."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Frame:
        return read_image(self.paths[index])

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(b"".join(self.digests)).hexdigest()[:16]

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """Of each file's content."""
        return tuple(hashlib.sha256(_bytes(path)).digest() for path in self.paths)


@dataclass(frozen=True)
class RenderedScenes:
    """Frames from the renderer; each depends on the settings and its index alone."""

    settings: SceneSettings
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Frame:
        return scene(self.settings, index).image

    @cached_property
    def hash(self) -> str:
        text = f"scenes {RENDERER_VERSION} {self.settings!r} {self.count}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Subset:
    """Some frames of another set."""

    frames: FrameSet
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[self.indices[index]]

    @cached_property
    def hash(self) -> str:
        text = f"{self.frames.hash} {self.indices}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Joined:
    """The frames of several sets, one after another."""

    parts: tuple[FrameSet, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> Frame:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError("beyond the last frame")

    @cached_property
    def hash(self) -> str:
        if len(self.parts) == 1:
            return self.parts[0].hash
        text = " ".join(part.hash for part in self.parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def described(frames: FrameSet) -> dict[str, Any]:
    """What results say of a frame set: `hash` and `count`."""
    return {"hash": frames.hash, "count": len(frames)}


def parts_of(frames: FrameSet) -> tuple[FrameSet, ...]:
    """The sets that joined frames are of; any other is one part."""
    return frames.parts if isinstance(frames, Joined) else (frames,)


def split_parts(frames: FrameSet, unseen: int) -> list[tuple[Subset, Subset]]:
    """Each part in two, by itself: what becomes of one does not change when others come after.

    The first gives `unseen` frames, as it would alone; every other as many, but no more than a
    quarter of its own.

    Raises:
        BadFrames: a part would have nothing left to be seen.
    """
    first, *later = parts_of(frames)
    few = [max(1, min(unseen, len(part) // LATER_UNSEEN)) for part in later]
    return [_split(first, unseen), *(_split(p, n) for p, n in zip(later, few, strict=True))]


def split(frames: FrameSet, unseen: int) -> tuple[Subset, Subset]:
    """The frames in two: all others, and `unseen` of them, evenly spread; joined ones by
    `split_parts`.

    Raises:
        BadFrames: nothing would be left to be seen.
    """
    if isinstance(frames, Joined):
        seen, kept = zip(*split_parts(frames, unseen), strict=True)
        return _within(frames, seen), _within(frames, kept)
    return _split(frames, unseen)


def _split(frames: FrameSet, unseen: int) -> tuple[Subset, Subset]:
    if len(frames) <= unseen:
        raise BadFrames(
            f"{len(frames)} frames, of which verify.fidelity_frames keeps {unseen} for fidelity: "
            "none are left for the statistics; give more frames"
        )
    kept = set(Sampling(unseen).indices(len(frames)))
    seen = tuple(i for i in range(len(frames)) if i not in kept)
    return Subset(frames, seen), Subset(frames, tuple(sorted(kept)))


def _within(joined: Joined, subsets: Sequence[Subset]) -> Subset:
    """The same frames of each part, by their places in the whole."""
    indices: list[int] = []
    start = 0
    for part, subset in zip(joined.parts, subsets, strict=True):
        indices += (start + k for k in subset.indices)
        start += len(part)
    return Subset(joined, tuple(indices))


@lru_cache(maxsize=512)
def scene(settings: SceneSettings, index: int) -> Scene:
    """A rendered scene; labels and pictures of the same frames are asked for one after another."""
    return render(settings, index)


def folder_frames(folder: Path, sampling: Sampling) -> ImageFiles:
    """The images below a folder, ordered by name.

    Raises:
        BadFrames: there is no such folder, or it holds no images.
    """
    if not folder.is_dir():
        raise BadFrames(f"frames folder {folder}: there is no such folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        wanted = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BadFrames(f"frames folder {folder}: holds no images ({wanted})")
    taken = sampling.indices(len(found))
    if not taken:
        raise BadFrames(
            f"frames folder {folder}: offset {sampling.offset} leaves none of its "
            f"{len(found)} images"
        )
    return ImageFiles(tuple(found[i] for i in taken))


def overlap(one: FrameSet, other: FrameSet) -> int:
    """How many frames are in both sets, told by their files, or by the renderer's settings."""
    known = set(_each(other, _names))
    return sum(name in known for name in _each(one, _names))


def repeated(frames: FrameSet) -> int:
    """How many frames of the set are in it already, told as by `overlap`."""
    names = _each(frames, _names)
    return len(names) - len(set(names))


def contents(frames: FrameSet) -> list[str]:
    """Of each frame, what changes with its content and not with its place."""
    return [str(content) for content in _each(frames, _contents)]


def _each(frames: FrameSet, told: Callable[[FrameSet], Sequence[Hashable]]) -> Sequence[Hashable]:
    """What is told of each frame, by the set of its own that it is of."""
    if isinstance(frames, Subset):
        of_all = _each(frames.frames, told)
        return [of_all[index] for index in frames.indices]
    if isinstance(frames, Joined):
        return [one for part in frames.parts for one in _each(part, told)]
    return told(frames)


def _names(frames: FrameSet) -> Sequence[Hashable]:
    if isinstance(frames, ImageFiles):
        return [path.resolve() for path in frames.paths]
    return _rendered(frames)


def _contents(frames: FrameSet) -> Sequence[Hashable]:
    if isinstance(frames, ImageFiles):
        return [digest.hex() for digest in frames.digests]
    return _rendered(frames)


def _rendered(frames: FrameSet) -> Sequence[Hashable]:
    settings = frames.settings if isinstance(frames, RenderedScenes) else id(frames)
    return [(settings, index) for index in range(len(frames))]


def read_image(path: Path) -> Frame:
    """An image file as uint8 (H, W, 3) RGB.

    Raises:
        BadFrames: the file is missing or is not a whole image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (
        OSError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        SyntaxError,
        ValueError,
    ) as error:
        raise BadFrames(
            f"image {path}: cannot be read ({error}); remove it or put a whole image in its place"
        ) from error


def batches(frames: FrameSet, size: int) -> Iterator[tuple[range, list[Frame]]]:
    """Consecutive batches with the indices of their frames; the last may be smaller."""
    for indices in spans(len(frames), size):
        yield indices, [frames[i] for i in indices]


def spans(count: int, size: int) -> list[range]:
    """`count` indices in consecutive batches; the last may be smaller."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFrames(f"image {path}: cannot be read ({error.strerror})") from error
