"""Whether a camera's new frames still look like those of the last search; no labels are needed.

Each statistic of a reference is compared by the distance of Kolmogorov and Smirnov, Bonferroni
over all of them (Rabanser, Günnemann & Lipton 2019, "Failing Loudly").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from scipy.stats import ks_2samp, kstwo

from search.data.frames import BadFrames
from search.drift.frame_features import Description, View
from search.drift.reference import BadReference, Reference, Sample, Vector

RATE = 0.05
"""The stated false-alarm rate: the share of rounds with an alarm while no camera has changed."""
CONFIDENCE = 0.99
"""In that the rate holds for all windows that one reference serves."""
LEAST_WINDOW = 8
"""Frames."""


@dataclass(frozen=True)
class Drift:
    """What a window of new frames says."""

    p_value: float
    """Of frames as far from the reference as these, if nothing had changed; corrected for all
    statistics and for all comparisons of the round."""
    rate: float
    """Share of rounds with an alarm, at most, while no camera has changed."""
    least: float
    """The p-value of as many frames that have nothing in common with the reference."""
    view: View
    """In which the two differ most."""
    distance: float
    """There: 0 if both are distributed alike, 1 if they have nothing in common."""

    @property
    def noticed(self) -> bool:
        """Whether the camera has changed."""
        return self.p_value <= self.rate

    @property
    def blind(self) -> bool:
        """Whether the frames are too few, or too much alike, for any change to be noticed."""
        return self.least > self.rate


def compare(
    reference: Reference, window: Description, rate: float = RATE, comparisons: int = 1
) -> Drift:
    """Whether frames come from the camera that the reference is of.

    `rate` is that of false alarms in a round, and `comparisons` how many cameras it judges.

    One reference serves many windows. A two-sample test has its level over pairs of samples; with
    one and the same reference it may alarm several times as often, in every round again. So the
    reference is granted the distance that it may have from its camera, at CONFIDENCE, and the
    window is tested by what is left: if F is the camera's distribution, |F_window - F_reference|
    is at most |F_window - F| + |F - F_reference|, and both follow `scipy.stats.kstwo`. Given a
    reference within that distance, which CONFIDENCE of them are, the rate holds for its windows.

    Frames in a row resemble each other. Both samples count as the number of independent frames
    that they are worth, by the reference's autocorrelation.

    Raises:
        BadFrames: there are too few frames.
        BadReference: reference and window were described by different models.
    """
    if len(window) < LEAST_WINDOW:
        raise BadFrames(
            f"{len(window)} frames are too few to compare: give {LEAST_WINDOW} or more"
        )
    if reference.models != window.models:
        raise BadReference(
            "the reference was described by other models than these frames: describe the frames "
            "of the last search anew"
        )
    tests = comparisons * sum(sample.statistics for sample in reference.samples.values())
    found = [
        _Distance.between(sample, number, scores, view)
        for view, sample in reference.samples.items()
        for number, scores in enumerate(sample.projection.scores(window.rows[view]).T)
    ]
    first = min(found, key=lambda one: (one.p_value(one.value, tests), -one.value))
    least = min(one.p_value(1.0, tests) for one in found)
    return Drift(first.p_value(first.value, tests), rate, least, first.view, first.value)


@dataclass(frozen=True)
class _Distance:
    """Reference and window by one statistic alone, and how many independent frames they are."""

    view: View
    value: float
    known: int
    new: int

    @classmethod
    def between(cls, sample: Sample, number: int, scores: Vector, view: View) -> _Distance:
        known, time = sample.scores[:, number], sample.times[number]
        value = float(ks_2samp(known, scores, method="asymp").statistic)
        return cls(view, value, _worth(known, time), _worth(scores, time))

    def p_value(self, distance: float, tests: int) -> float:
        left = max(0.0, distance - _granted(self.known, tests))
        return min(1.0, tests * float(kstwo.sf(left, self.new)))


@lru_cache
def _granted(frames: int, tests: int) -> float:
    """How far so many frames may lie from their own distribution; takes scipy some time."""
    return float(kstwo.isf((1 - CONFIDENCE) / tests, frames))


def _worth(values: Vector, time: float) -> int:
    """How many independent frames tell as much as these."""
    return max(1, math.floor(len(values) / float(time)))
