"""Leave images that cannot be read out of frame sets and ground truth, as long as they are few."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from search.data.frames import ImageFiles, Remarks
from search.data.ground_truth import BadTruth, Truth, truth_on
from search.data.images import BadFrames, find_damage

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
    if not check.damage:
        return frames
    warning = Remarks(warnings=(f"{source}: {check.describe()}; they are left out",))
    return ImageFiles(
        tuple(frames.paths[index] for index in check.intact), frames.remarks + warning
    )


def check_images(paths: Sequence[Path]) -> ImageCheck:
    """Check every image file, without decoding those that are complete."""
    with ThreadPoolExecutor(READERS) as pool:
        reasons = list(pool.map(find_damage, paths))
    intact = tuple(index for index, reason in enumerate(reasons) if not reason)
    damage = (f"{path} ({reason})" for path, reason in zip(paths, reasons, strict=True) if reason)
    return ImageCheck(intact, tuple(damage))
