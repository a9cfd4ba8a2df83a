"""The codings of a codec that are worth choosing from: the cheapest for each distortion."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from search.split.rate_curve import RateCurve
from spaces.split.coefficients import Coding

LEVELS = 24
LEAST_DISTORTION, MOST_DISTORTION = 3e-4, 1.0
"""Answers that hardly change, and answers of as much error as they vary over frames."""


def distortion_levels(count: int = LEVELS) -> list[float]:
    """Return distortions with equal ratios, the least first."""
    return [float(d) for d in np.geomspace(LEAST_DISTORTION, MOST_DISTORTION, count)]


def cheapest_codings(curve: RateCurve, distortions: Sequence[float]) -> list[Coding]:
    """Return the coding of fewest predicted bytes for each of some distortions.

    Where a codec cannot reach a distortion, it is the finest coding.
    """
    return [_cheapest(curve, most) for most in distortions]


def _cheapest(curve: RateCurve, most: float) -> Coding:
    reaching = []
    for bands in range(1, curve.zones + 1):
        steps = curve.steps
        count = bisect_right(steps, most, key=lambda step: curve.distortion(Coding(step, bands)))
        if count:
            reaching.append(Coding(steps[count - 1], bands))
    finest = Coding(curve.steps[0], curve.zones)
    return min(reaching, key=lambda coding: (curve.bytes(coding), coding), default=finest)
