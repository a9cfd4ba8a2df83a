"""Whether two frames of a fixed camera show the same picture: a still scene adds no information.

Two frames are compared cell by cell on a small grey picture. A perceptual hash of the whole
picture is unsuitable: the still background decides all of its bits, and a person who walks
through changes none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spaces.inputs import Frame

GRID = (48, 36)
"""Columns and rows; a cell of a 768x576 picture is 16 pixels wide, as is a person far away."""
TOLERANCE = 10
"""Grey levels of 255 by which a cell may differ. Noise and compression stay below it."""

GreyPicture = NDArray[np.int16]


def grey_picture(frame: Frame) -> GreyPicture:
    """Reduce a uint8 (H, W, 3) RGB frame to the mean grey of each cell, int16 (36, 48), 0 to
    255."""
    grey = Image.fromarray(frame).convert("L")
    return np.asarray(grey.resize(GRID, Image.Resampling.BOX), dtype=np.int16)


def near_identical(first: GreyPicture, second: GreyPicture) -> bool:
    """Whether every cell is equal within the tolerance; symmetric and reflexive."""
    return int(np.abs(first - second).max()) <= TOLERANCE
