"""The codings of a codec that are worth choosing from: the cheapest for each distortion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.split.rate_curve import RateCurve
from spaces.split.coefficients import Coding

DISTORTIONS = 24
LEAST_DISTORTION, MOST_DISTORTION = 3e-4, 1.0
"""Answers that hardly change, and answers of as much error as they vary over frames."""


def distortion_levels(count: int = DISTORTIONS) -> list[float]:
    """Return distortions with equal ratios, the least first."""
    return [float(d) for d in np.geomspace(LEAST_DISTORTION, MOST_DISTORTION, count)]


def cheapest_codings(curve: RateCurve, distortions: Sequence[float]) -> list[Coding]:
    """Return the coding of fewest predicted bytes for each of some distortions.

    Where a codec cannot reach a distortion, it is the finest coding.
    """
    table = [
        (curve.bytes(coding), coding, curve.distortion(coding))
        for step in curve.steps
        for bands in range(1, curve.zones + 1)
        if (coding := Coding(step, bands))
    ]
    table.sort(key=lambda entry: entry[:2])
    finest = Coding(curve.steps[0], curve.zones)
    return [
        next((coding for _, coding, distortion in table if distortion <= most), finest)
        for most in distortions
    ]
