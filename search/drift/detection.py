"""Detect without labels whether a camera's new frames differ from those of the last search.

Each statistic of a reference is compared by the Kolmogorov-Smirnov distance, with a Bonferroni
correction over all statistics (Rabanser, Günnemann & Lipton 2019, "Failing Loudly").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from scipy.stats import ks_2samp, kstwo

from search.data.frames import BadFrames
from search.drift.frame_features import Description, View
from search.drift.reference import BadReference, Reference, Sample
from search.utils.arrays import FloatVector

RATE = 0.05
"""The stated false-alarm rate: the share of rounds with an alarm while no camera has changed."""
CONFIDENCE = 0.99
"""Probability that the rate holds for all windows that are compared with one reference."""
LEAST_WINDOW = 8
"""Smallest number of frames of a window."""


@dataclass(frozen=True)
class Drift:
    """The comparison of a window of new frames with a reference."""

    p_value: float
    """Probability of a distance as large as the window's if nothing has changed; corrected for
    all statistics and for all comparisons of the round."""
    rate: float
    """Maximum share of rounds with an alarm while no camera has changed."""
    least: float
    """The p-value of an equally large window that has nothing in common with the reference."""
    view: View
    """The view in which window and reference differ most."""
    distance: float
    """The distance in that view: 0 for equal distributions, 1 for disjoint ones."""

    @property
    def noticed(self) -> bool:
        """Whether the camera has changed."""
        return self.p_value <= self.rate

    @property
    def blind(self) -> bool:
        """Whether the frames are too few, or too similar, for any change to be noticed."""
        return self.least > self.rate


def compare(
    reference: Reference, window: Description, rate: float = RATE, comparisons: int = 1
) -> Drift:
    """Compare a window of new frames with a reference.

    `rate` is the rate of false alarms in a round that compares `comparisons` cameras.

    One reference serves many windows. The level of a two-sample test holds over pairs of samples;
    with the same reference in every round, the test may alarm several times as often. So the
    distance that a reference may have from its camera, at CONFIDENCE, is subtracted, and the
    window is tested by the rest: if F is the camera's distribution, |F_window - F_reference| is
    at most |F_window - F| + |F - F_reference|, and both follow `scipy.stats.kstwo`. A share
    CONFIDENCE of all references lies within that distance, and for their windows the rate holds.

    Consecutive frames resemble each other. So both samples count as fewer, independent frames,
    by the reference's autocorrelation times.

    Raises:
        BadFrames: the window has too few frames.
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
    distances = [
        _Distance.between(sample, number, scores, view)
        for view, sample in reference.samples.items()
        for number, scores in enumerate(sample.projection.scores(window.rows[view]).T)
    ]
    largest = min(distances, key=lambda d: (d.p_value(d.value, tests), -d.value))
    least = min(distance.p_value(1.0, tests) for distance in distances)
    return Drift(largest.p_value(largest.value, tests), rate, least, largest.view, largest.value)


@dataclass(frozen=True)
class _Distance:
    """The distance between reference and window in one statistic."""

    view: View
    value: float
    """Kolmogorov-Smirnov distance, 0 to 1."""
    reference_frames: int
    """Number of independent frames that the reference's sample is worth."""
    window_frames: int
    """Number of independent frames that the window is worth."""

    @classmethod
    def between(cls, sample: Sample, number: int, scores: FloatVector, view: View) -> _Distance:
        """Return the distance in one statistic of a view; `scores` are the window's."""
        reference_scores, time = sample.scores[:, number], sample.times[number]
        value = float(ks_2samp(reference_scores, scores, method="asymp").statistic)
        return cls(
            view,
            value,
            _independent_frames(reference_scores, time),
            _independent_frames(scores, time),
        )

    def p_value(self, distance: float, tests: int) -> float:
        """Return the p-value of a distance between samples of these sizes, corrected for the
        number of tests."""
        excess = max(0.0, distance - _allowance(self.reference_frames, tests))
        return min(1.0, tests * float(kstwo.sf(excess, self.window_frames)))


@lru_cache  # slow in SciPy
def _allowance(frames: int, tests: int) -> float:
    """Return the distance from its own distribution that a sample stays within at CONFIDENCE."""
    return float(kstwo.isf((1 - CONFIDENCE) / tests, frames))


def _independent_frames(values: FloatVector, time: float) -> int:
    """Return the number of independent frames that are worth as much as these, at least 1."""
    return max(1, math.floor(len(values) / float(time)))
