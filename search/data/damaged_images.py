"""Leave images that cannot be read out of frame sets and ground truth, as long as they are few."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from search.data.frames import ImageFiles, Remarks
from search.data.ground_truth import BadTruth, Truth, truth_on
from search.data.images import BadFrames, ImageFile, check_image

MAX_NAMED = 3
"""The most images that a message names."""
READERS = 8
"""Files that are read at a time."""


@dataclass(frozen=True)
class ImageCheck:
    """Which of some image files are intact."""

    intact: tuple[int, ...]
    """Their indices."""
    damage: tuple[str, ...]
    """Path and reason of each other one."""
    digests: tuple[bytes, ...]
    """The SHA-256 of each intact one."""

    @property
    def count(self) -> int:
        return len(self.intact) + len(self.damage)

    def exceeds(self, limit: float) -> bool:
        """Whether the share of damaged images is above the limit, or nothing is left."""
        return not self.intact or len(self.damage) > limit * self.count

    def describe(self) -> str:
        """Return in words which images are damaged."""
        more = len(self.damage) - MAX_NAMED
        named = "; ".join(self.damage[:MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
        return f"{len(self.damage)} of {self.count} images cannot be read: {named}"

    def refusal(self, limit: float) -> str:
        """Return in words that too many images are damaged."""
        return (
            f"{self.describe()}; that is more than the share frames.unreadable, {limit:g}: "
            "copy them again from their source, or set frames.unreadable higher"
        )


def intact_frames(frames: ImageFiles, limit: float, source: str) -> ImageFiles:
    """Leave out the images that cannot be read; their share must be within the limit.

    Raises:
        BadFrames: more of them cannot be read.
    """
    check = check_images(frames.paths)
    if check.exceeds(limit):
        raise BadFrames(f"{source}: {check.refusal(limit)}")
    return _select(frames, check, source)


def intact_truth(truth: Truth, limit: float, source: str) -> Truth:
    """Leave out the labelled images that cannot be read; their share must be within the limit.

    Raises:
        BadTruth: more of them cannot be read.
    """
    if not isinstance(truth.frames, ImageFiles):
        return truth
    check = check_images(truth.frames.paths)
    if check.exceeds(limit):
        raise BadTruth(f"{source}: {check.refusal(limit)}")
    return truth_on(_select(truth.frames, check, source), truth, check.intact)


def _select(frames: ImageFiles, check: ImageCheck, source: str) -> ImageFiles:
    """Return the intact images, with a warning if there are others."""
    warnings = (f"{source}: {check.describe()}; they are left out",) if check.damage else ()
    return ImageFiles(
        tuple(frames.paths[index] for index in check.intact),
        frames.remarks + Remarks(warnings=warnings),
        check.digests,
    )


def check_images(paths: Sequence[ImageFile]) -> ImageCheck:
    """Read and decode every image file once.

    A damaged image that is found later, in the pass over the frames, would end a run after
    minutes. On two cores, photos of 640 x 480 take 0.7 ms each, a fraction of the pass.
    """
    with ThreadPoolExecutor(READERS) as pool:
        images = list(pool.map(check_image, paths))
    intact = tuple(index for index, image in enumerate(images) if not image.damage)
    damage = (
        f"{path} ({image.damage})"
        for path, image in zip(paths, images, strict=True)
        if image.damage
    )
    return ImageCheck(intact, tuple(damage), tuple(images[index].digest for index in intact))
