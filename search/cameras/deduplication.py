"""Whether two frames of a fixed camera show the same picture: a still scene adds no information.

Two frames are compared cell by cell on a small grey picture. A perceptual hash of the whole
picture is unsuitable: the still background decides all of its bits, and a person who walks
through changes none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.data.frames import FrameSet, ImageFiles, Sampling, parts_of
from spaces.inputs import Frame

GRID = (48, 36)
"""Columns and rows; a cell of a 768x576 picture is 16 pixels wide, as is a person far away."""
TOLERANCE = 10
"""Grey levels of 255 by which a cell may differ. Noise and compression stay below it."""

COMPARED_FRAMES = 64
"""Frames, spread over a set, that are compared with its first one."""
LARGEST_SHARE = 0.9
"""A larger share of frames like the first one makes statistics of a single picture."""
UNIFORM = 3.0
"""Standard deviation of the grey levels of a picture that shows nothing."""

GreyPicture = NDArray[np.int16]


def grey_picture(frame: Frame) -> GreyPicture:
    """Reduce a uint8 (H, W, 3) RGB frame to the mean grey of each cell, int16 (36, 48), 0 to
    255."""
    grey = Image.fromarray(frame).convert("L")
    return np.asarray(grey.resize(GRID, Image.Resampling.BOX), dtype=np.int16)


def near_identical(first: GreyPicture, second: GreyPicture) -> bool:
    """Whether every cell is equal within the tolerance; symmetric and reflexive."""
    return int(np.abs(first - second).max()) <= TOLERANCE


def describe_repetition(frames: FrameSet) -> str:
    """Return in words that nearly all image files of a set show one picture; empty if not.

    Raises:
        BadFrames: one of the sampled images cannot be read.
    """
    if not any(isinstance(part, ImageFiles) for part in parts_of(frames)):
        return ""
    first, *others = (
        grey_picture(frames[index]) for index in Sampling(COMPARED_FRAMES).indices(len(frames))
    )
    repeated = sum(near_identical(first, other) for other in others)
    if not others or repeated <= LARGEST_SHARE * len(others):
        return ""
    return (
        f"{repeated} of {len(others)} frames, spread over all {len(frames)}, look like the first "
        f"one: {_reason(first)}"
    )


def _reason(picture: GreyPicture) -> str:
    """Return the likely reason why all frames look like this one, and what to do."""
    if picture.std() < UNIFORM:
        return (
            f"it is uniformly grey, at {picture.mean():.0f} of 255; was the lens covered, or are "
            "the images empty?"
        )
    return (
        "the scene is still, or the camera is frozen; take frames further apart, or from other "
        "hours"
    )
