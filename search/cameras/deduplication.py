"""Whether two frames of a fixed camera show the same: a still scene says nothing new.

Two frames are compared cell by cell on a small grey picture. A hash of the whole picture is unfit
here: what stands still decides all of its bits, and somebody who walks through changes none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spaces.inputs import Frame

GRID = (48, 36)
"""Columns and rows; a cell of a 768x576 picture is 16 pixels wide, as is a person far away."""
NOTABLE = 10
"""Grey levels of 255 by which a cell must differ. Noise and compression stay below it."""

GreyPicture = NDArray[np.int16]


def grey_picture(frame: Frame) -> GreyPicture:
    """A uint8 (H, W, 3) RGB frame as int16 (36, 48): the mean grey of each cell, 0 to 255."""
    grey = Image.fromarray(frame).convert("L")
    return np.asarray(grey.resize(GRID, Image.Resampling.BOX), dtype=np.int16)


def near_identical(one: GreyPicture, other: GreyPicture) -> bool:
    """Whether no cell differs notably; symmetric, and true of a picture and itself."""
    return int(np.abs(one - other).max()) <= NOTABLE
