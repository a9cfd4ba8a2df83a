"""What a camera's frames look like on average, and how far two cameras lie apart.

The features are those of the drift test (`search.drift.frame_features`). The distance is an effect
size: the root mean square, over the features of a view, of the difference of the two means in
standard deviations of one camera's own frames. It does not grow with the number of frames, as the
significance of a difference does: two cameras over one street always differ significantly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.drift.frame_features import Description, View
from search.drift.reference import autocorrelation_times
from search.utils.arrays import FloatMatrix, FloatVector

LEAST_SPREAD = 1e-6
"""Standard deviation of a feature, relative to its largest mean, that is more than rounding."""


@dataclass(frozen=True)
class ViewSignature:
    """The mean features of one view, and how much they vary."""

    mean: FloatVector
    """(features,)"""
    variance: FloatVector
    """(features,): over the frames of one camera."""
    error: FloatVector
    """(features,): variance of the mean, as if other frames had been taken."""

    @classmethod
    def of(cls, rows: FloatMatrix) -> ViewSignature:
        """Return the signature of (frames, features); consecutive frames count as fewer."""
        variance = rows.var(0, ddof=1)
        return cls(rows.mean(0), variance, variance * autocorrelation_times(rows) / len(rows))

    @classmethod
    def average(cls, views: Sequence[ViewSignature]) -> ViewSignature:
        """Return the signature of a group, in which every camera counts the same."""
        count = len(views)
        return cls(
            sum((view.mean for view in views), np.zeros(1)) / count,
            sum((view.variance for view in views), np.zeros(1)) / count,
            sum((view.error for view in views), np.zeros(1)) / count**2,
        )


@dataclass(frozen=True)
class Signature:
    """The signature of a camera, or of a group of them."""

    views: Mapping[View, ViewSignature]

    @classmethod
    def of(cls, description: Description) -> Signature:
        """Return the signature of frames in the order in which they were taken; two or more."""
        return cls({view: ViewSignature.of(rows) for view, rows in description.rows.items()})

    @classmethod
    def average(cls, signatures: Sequence[Signature]) -> Signature:
        """Return the signature of a group of cameras."""
        views = signatures[0].views
        return cls(
            {view: ViewSignature.average([s.views[view] for s in signatures]) for view in views}
        )


@dataclass(frozen=True)
class Scale:
    """The spread of the frames of one camera, on average over cameras: the unit of distances."""

    variances: Mapping[View, FloatVector]
    """(features,) by view; 0 for features that do not vary."""

    @classmethod
    def of(cls, signatures: Iterable[Signature]) -> Scale:
        """Return the scale of one or more cameras."""
        every = list(signatures)
        return cls({view: _variances([s.views[view] for s in every]) for view in every[0].views})

    def distance(self, one: Signature, other: Signature) -> float:
        """Return how far two cameras or groups lie apart, in the view that differs most.

        The part that the choice of frames explains is subtracted, so cameras that look the same
        lie 0 apart, up to chance.
        """
        return max(
            _distance(variances, one.views[view], other.views[view])
            for view, variances in self.variances.items()
        )


def _variances(views: Sequence[ViewSignature]) -> FloatVector:
    mean = np.max([np.abs(view.mean) for view in views], axis=0)
    variance: FloatVector = np.mean([view.variance for view in views], axis=0)
    return np.where(variance > (LEAST_SPREAD * mean) ** 2, variance, 0.0)


def _distance(variances: FloatVector, one: ViewSignature, other: ViewSignature) -> float:
    varies = variances > 0
    if not varies.any():
        return 0.0
    excess = (one.mean - other.mean) ** 2 - one.error - other.error
    return float(np.sqrt(max(0.0, float(np.mean(excess[varies] / variances[varies])))))
