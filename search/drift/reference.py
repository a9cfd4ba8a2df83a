"""What a camera looked like during the last search, as a few numbers per frame.

Each view is projected to a few principal axes and to the distance from them. The axes are fitted
on other frames than those that are compared, because frames vary more along axes that were fitted
on them than new frames do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.data.frames import BadFrames
from search.drift.frame_features import Description, View
from search.utils.arrays import FloatMatrix, FloatVector
from spaces.errors import MergeSearchError

COMPONENTS = 3
"""Principal axes of a view."""
STRETCHES = 9
"""Stretches of time in a reference; axes are fitted on every third, the others are compared."""
LEAST_REFERENCE = 30
"""Smallest number of frames of a reference."""
LARGE_REFERENCE = 240
"""Number of frames of a large reference; more of them hardly improve the test."""


class BadReference(MergeSearchError):
    """A reference cannot be read, or belongs to other models."""


@dataclass(frozen=True)
class Projection:
    """Projects standardised features to a few principal axes, and the rest to its squared
    length."""

    mean: FloatVector
    """(features,)"""
    weight: FloatVector
    """(features,): 1 over the standard deviation; 0 for features that do not vary."""
    axes: FloatMatrix
    """(components, features), orthonormal."""

    @classmethod
    def fit(cls, rows: FloatMatrix) -> Projection:
        """Return the projection to the axes along which the standardised `rows` vary most.

        Raises:
            BadFrames: no feature varies over the rows.
        """
        mean, spread = rows.mean(0), rows.std(0)
        # smaller variation is the rounding of float32
        varies = spread > 1e-6 * np.abs(rows).max(0)
        if not varies.any():
            raise BadFrames(
                "all frames of the reference are the same: nothing is known of how much the "
                "camera's frames differ; give others"
            )
        weight = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
        axes = np.linalg.svd((rows - mean) * weight, full_matrices=False)[2]
        return cls(mean, weight, axes[:COMPONENTS])

    def scores(self, rows: FloatMatrix) -> FloatMatrix:
        """Return (frames, components + 1): the position along each axis, and the squared
        distance from all of them."""
        standard = (rows - self.mean) * self.weight
        along = standard @ self.axes.T
        outside = (standard**2).sum(1) - (along**2).sum(1)
        return np.column_stack((along, outside))


@dataclass(frozen=True)
class Sample:
    """A sample of one view of a camera."""

    projection: Projection
    scores: FloatMatrix
    """(frames, statistics) of frames that the projection was not fitted on."""
    times: FloatVector
    """(statistics,): autocorrelation times, in frames."""

    @classmethod
    def of(cls, rows: FloatMatrix) -> Sample:
        """Return the sample of (frames, features)."""
        fitted_on = fitting_frames(len(rows))
        projection = Projection.fit(rows[fitted_on])
        return cls._of(projection, projection.scores(rows[~fitted_on]))

    def grown(self, rows: FloatMatrix) -> Sample:
        """Return the sample with more frames; the projection stays the same."""
        return self._of(
            self.projection, np.concatenate((self.scores, self.projection.scores(rows)))
        )

    @classmethod
    def _of(cls, projection: Projection, scores: FloatMatrix) -> Sample:
        return cls(projection, scores, autocorrelation_times(scores))

    @property
    def statistics(self) -> int:
        """The number of statistics."""
        return len(self.times)


@dataclass(frozen=True)
class Reference:
    """What a camera looked like during the last search; serves any number of windows."""

    models: str
    """The `models_key` of the models that computed the features."""
    samples: Mapping[View, Sample]
    taken_up: tuple[str, ...] = ()
    """Names of the windows that were added since the search."""

    @classmethod
    def of(cls, description: Description) -> Reference:
        """Return the reference of the frames of the last search, in the order of time.

        Raises:
            BadFrames: there are too few frames, or no feature varies.
        """
        if len(description) < LEAST_REFERENCE:
            raise BadFrames(
                f"{len(description)} frames are too few to know a camera by: give "
                f"{LEAST_REFERENCE} or more, better {LARGE_REFERENCE}"
            )
        samples = {view: Sample.of(rows) for view, rows in description.rows.items()}
        return cls(description.models, samples)

    @property
    def is_large(self) -> bool:
        """Whether it compares as many frames as a reference built from LARGE_REFERENCE frames."""
        compared = LARGE_REFERENCE - np.count_nonzero(fitting_frames(LARGE_REFERENCE))
        return all(len(sample.scores) >= compared for sample in self.samples.values())

    def grown(self, window: str, description: Description) -> Reference:
        """Return the reference with the frames of a later window that resembles it.

        A large reference stays the same, and each window is added only once. A window that
        becomes a part of a search is a small reference, which notices large changes only. It
        grows by the windows right after that search and stops when it is large, so that it
        follows a slow change only briefly.
        """
        if self.is_large or window in self.taken_up:
            return self
        samples = {
            view: sample.grown(description.rows[view]) for view, sample in self.samples.items()
        }
        return Reference(self.models, samples, (*self.taken_up, window))


def fitting_frames(frames: int) -> NDArray[np.bool_]:
    """Return the mask (frames,) of a reference's frames that the axes are fitted on.

    They come in stretches from its whole time. A frame resembles the one before, so axes fitted
    on every frame's neighbour would fit the reference better than any new frame.
    """
    stretches = np.arange(frames) * STRETCHES // frames
    return np.equal(stretches % 3, 0)


def autocorrelation_times(values: FloatMatrix) -> FloatVector:
    """Return, for each column of (times, columns), the sum of its autocorrelations over all lags.

    The mean of n values with autocorrelation time t varies as the mean of n / t independent
    values. The time is 1 for independent values, and never less.

    Source: the initial monotone sequence estimator of Geyer 1992, "Practical Markov Chain Monte
    Carlo", section 3.3.
    """
    centred = values - values.mean(0)
    count = len(centred)
    power = np.abs(np.fft.rfft(centred, 2 * count, axis=0)) ** 2
    lags = np.fft.irfft(power, axis=0)[: count // 2 * 2]
    lags = np.divide(lags, lags[0], out=np.zeros_like(lags), where=lags[0] > 0)
    pairs = np.minimum.accumulate(lags.reshape(count // 2, 2, -1).sum(1))
    times: FloatVector = np.maximum(1.0, 2 * np.maximum(pairs, 0).sum(0) - 1)
    return times
