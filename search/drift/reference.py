"""What a camera looked like when it was searched last, as few numbers.

Each view is projected to a few principal axes and what lies outside them. The axes are fitted on
other frames than those that are compared: frames spread further along axes of their own than new
ones do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.data.frames import BadFrames
from search.drift.frame_features import Description, Matrix, View
from spaces.errors import MergeSearchError

Vector = NDArray[np.float64]

COMPONENTS = 3
"""Principal axes of a view."""
STRETCHES = 9
"""Of a reference; every third one is for the axes, the others are compared."""
LEAST_REFERENCE = 30
"""Frames."""
ENOUGH = 240
"""Frames: a test gains little by more of them."""


class BadReference(MergeSearchError):
    """A reference that cannot be read, or is of other models."""


@dataclass(frozen=True)
class Projection:
    """Standardised features to a few principal axes, and the rest to its squared length."""

    mean: Vector
    weight: Vector
    """One over the standard deviation; 0 for features that do not vary."""
    axes: Matrix
    """(components, features), orthonormal."""

    @classmethod
    def fit(cls, rows: Matrix) -> Projection:
        """The axes along which standardised `rows` vary most.

        Raises:
            BadFrames: nothing varies over the rows.
        """
        mean, spread = rows.mean(0), rows.std(0)
        # what float32 cannot tell from its own rounding does not vary
        varies = spread > 1e-6 * np.abs(rows).max(0)
        if not varies.any():
            raise BadFrames(
                "all frames of the reference are the same: nothing is known of how much the "
                "camera's frames differ; give others"
            )
        weight = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
        axes = np.linalg.svd((rows - mean) * weight, full_matrices=False)[2]
        return cls(mean, weight, axes[:COMPONENTS])

    def scores(self, rows: Matrix) -> Matrix:
        """(frames, components + 1): along each axis, and the squared distance from all of them."""
        standard = (rows - self.mean) * self.weight
        along = standard @ self.axes.T
        outside = (standard**2).sum(1) - (along**2).sum(1)
        return np.column_stack((along, outside))


# What a camera looked like.


@dataclass(frozen=True)
class Sample:
    """How one view of a camera is distributed, as far as its frames tell."""

    projection: Projection
    scores: Matrix
    """(frames, statistics) of frames that the projection has not been fitted on."""
    times: Vector
    """Autocorrelation times of the statistics, in frames: one of so many is independent."""

    @classmethod
    def of(cls, rows: Matrix) -> Sample:
        axes = for_axes(len(rows))
        projection = Projection.fit(rows[axes])
        return cls._of(projection, projection.scores(rows[~axes]))

    def grown(self, rows: Matrix) -> Sample:
        """With more frames; the projection stays as it was fitted."""
        return self._of(
            self.projection, np.concatenate((self.scores, self.projection.scores(rows)))
        )

    @classmethod
    def _of(cls, projection: Projection, scores: Matrix) -> Sample:
        return cls(projection, scores, autocorrelation_times(scores))

    @property
    def statistics(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Reference:
    """What a camera looked like when it was searched last; serves any number of windows."""

    models: str
    samples: Mapping[View, Sample]
    taken_up: tuple[str, ...] = ()
    """Names of the windows that have made it larger since."""

    @classmethod
    def of(cls, seen: Description) -> Reference:
        """From the frames of the last search, in the order in which they were taken.

        Raises:
            BadFrames: there are too few of them, or nothing varies.
        """
        if len(seen) < LEAST_REFERENCE:
            raise BadFrames(
                f"{len(seen)} frames are too few to know a camera by: give {LEAST_REFERENCE} or "
                f"more, better {ENOUGH}"
            )
        return cls(seen.models, {view: Sample.of(rows) for view, rows in seen.rows.items()})

    @property
    def is_large(self) -> bool:
        """Whether it compares as many frames as one of ENOUGH frames."""
        wanted = ENOUGH - np.count_nonzero(for_axes(ENOUGH))
        return all(len(sample.scores) >= wanted for sample in self.samples.values())

    def grown(self, window: str, seen: Description) -> Reference:
        """With the frames of a window that came later and looks like it, until it is large; each
        window counts once.

        A window that becomes a part of a search is a small reference, which notices large changes
        only. It grows by what comes right after that search, and by no more than it lacks: a slow
        change is not followed for long.
        """
        if self.is_large or window in self.taken_up:
            return self
        samples = {view: sample.grown(seen.rows[view]) for view, sample in self.samples.items()}
        return Reference(self.models, samples, (*self.taken_up, window))


def for_axes(frames: int) -> NDArray[np.bool_]:
    """Which of a reference's frames the axes are fitted on.

    They come from all of its time, but in stretches: a frame is much like the one before, and
    axes that know every frame's neighbour fit the reference better than any new frame.
    """
    stretches = np.arange(frames) * STRETCHES // frames
    return np.equal(stretches % 3, 0)


def autocorrelation_times(values: Matrix) -> Vector:
    """Of each column of (times, columns): the sum of its autocorrelations over all lags.

    The mean of n values varies as that of n over so many independent ones. 1 if they are
    independent, never less. Source: the initial monotone sequence estimator of Geyer 1992,
    "Practical Markov Chain Monte Carlo", section 3.3.
    """
    centred = values - values.mean(0)
    count = len(centred)
    power = np.abs(np.fft.rfft(centred, 2 * count, axis=0)) ** 2
    lags = np.fft.irfft(power, axis=0)[: count // 2 * 2]
    lags = np.divide(lags, lags[0], out=np.zeros_like(lags), where=lags[0] > 0)
    pairs = np.minimum.accumulate(lags.reshape(count // 2, 2, -1).sum(1))
    times: Vector = np.maximum(1.0, 2 * np.maximum(pairs, 0).sum(0) - 1)
    return times
