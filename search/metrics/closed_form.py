"""Metrics that are computed from the statistics of the one pass alone."""

from __future__ import annotations

import numpy as np
import torch

from search.metrics.base import PerShareMetric
from search.statistics.observed import Observed
from spaces.plan import Share
from spaces.shares import Pair


class ImageCka(PerShareMetric):
    """Unbiased linear CKA with images as samples: the similarity S of Cao et al. 2024.

    Source: Kornblith et al. 2019; Nguyen et al. 2021.
    """

    name = "cka"
    label = "unbiased linear CKA over images"

    def _similarity(self, observed: Observed, share: Share) -> float:
        return observed.statistics.image_cka(Pair(share.donor, share.recipient))


class PositionCka(PerShareMetric):
    """Linear CKA with positions as samples."""

    name = "position_cka"
    label = "linear CKA over positions"

    def _similarity(self, observed: Observed, share: Share) -> float:
        return observed.statistics.position_cka(Pair(share.donor, share.recipient))


class ExplainedVariance(PerShareMetric):
    """Held-out R^2 of the share's adapter."""

    name = "r2"
    label = "held-out R² of the adapter"

    def _similarity(self, observed: Observed, share: Share) -> float:
        return observed.statistics.explained(share)


class Procrustes(PerShareMetric):
    """How well a rotation and a scale turn the donor into the recipient.

    It is the sum of the singular values of S_xy, divided by sqrt(tr S_xx tr S_yy).

    Source: Schoenemann 1966; as a similarity of representations, Ding et al. 2021.
    """

    name = "procrustes"
    label = "Procrustes similarity over positions"

    def _similarity(self, observed: Observed, share: Share) -> float:
        cov = observed.statistics.covariances(Pair(share.donor, share.recipient))
        nuclear = torch.linalg.svdvals(torch.from_numpy(cov.xy)).sum()
        return float(nuclear) / float(np.sqrt(cov.donor_variance * cov.recipient_variance))


class Cosine(PerShareMetric):
    """Cosine of the raw representations at the same positions; 0 if the channel counts differ."""

    name = "cosine"
    label = "cosine of the raw representations"

    def _similarity(self, observed: Observed, share: Share) -> float:
        cov = observed.statistics.covariances(Pair(share.donor, share.recipient))
        if cov.xy.shape[0] != cov.xy.shape[1]:
            return 0.0
        x, y = cov.donor_mean, cov.recipient_mean
        inner = np.trace(cov.xy) + x @ y
        squares = (cov.donor_variance + x @ x) * (cov.recipient_variance + y @ y)
        return float(inner / np.sqrt(squares))
