"""Several views of a frame, so that a few hundred frames show more than once what they hold."""

from __future__ import annotations

import numpy as np

from spaces.inputs import Frame

FRAME_VIEWS = 4
"""Views of each frame: the frame, its mirror image, and random parts of it."""
SMALLEST_PART = 0.5
"""Smallest part of the area of a frame that a view shows."""


def views_of(frame: Frame, seed: int) -> list[Frame]:
    """Return `FRAME_VIEWS` views of a frame, itself first; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    parts = [_random_part(frame, rng) for _ in range(FRAME_VIEWS - 2)]
    return [np.ascontiguousarray(view) for view in (frame, frame[:, ::-1], *parts)]


def _random_part(frame: Frame, rng: np.random.Generator) -> Frame:
    """Return a random part of the same shape as the frame, mirrored or not."""
    side = np.sqrt(rng.uniform(SMALLEST_PART, 1.0))
    height, width = (max(1, round(side * length)) for length in frame.shape[:2])
    top = int(rng.integers(frame.shape[0] - height + 1))
    left = int(rng.integers(frame.shape[1] - width + 1))
    part = frame[top : top + height, left : left + width]
    return part[:, ::-1] if rng.integers(2) else part
