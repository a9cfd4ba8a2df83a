"""Closed-form metrics that are calibrated by a few measured fidelities per recipient stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from search.metrics.base import Metric
from search.metrics.fidelity import fidelity_alone
from search.statistics.observed import Observed
from search.utils.progress import Progress, silent
from spaces.model_facts import layouts_by_model
from spaces.plan import LINEAR, Ref, Share
from spaces.shares import Pair, enumerate_shares

Key = TypeVar("Key")
DonorSide = tuple[Ref, int]
"""A recipient, and the position of a donor in its own model relative to that model's best donor:
-1 before it, 0 the best donor itself, 1 after it."""


class _Calibrated(Metric):
    """The fidelity that a closed-form metric predicts, on one curve per recipient stage.

    A closed-form metric orders the donors of one recipient stage well. But half of a stage's
    variance is worth more fidelity at one stage than at another, and a donor deeper than the
    recipient keeps the answers at a lower raw similarity than a donor before it. So the fidelity
    of up to three donors is measured per recipient stage: of the donor with the greatest raw
    similarity, and of the best donor on either side of it. From each measured point, the curve
    falls in a straight line to 0 at 0, and rises in one to 1 at 1.
    """

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        anchors = _Anchors(observed, {share.recipient for share in shares}, self._raw_similarity)
        fidelity = fidelity_alone(observed, list(dict.fromkeys(anchors.by_side.values())))
        values = {}
        for share in shares:
            anchor = anchors.of(share)
            point = anchors.raw_similarity[anchor], fidelity[anchor]
            values[share] = _on_curve(self._raw_similarity(observed, share), point)
            progress(1)
        return values

    @abstractmethod
    def _raw_similarity(self, observed: Observed, share: Share) -> float:
        """Return the similarity before calibration, from 0 to 1."""


class CalibratedExplained(_Calibrated):
    """R^2, raised to the power at which its relation to fidelity is closest to a straight line.

    The power is measured in docs/benchmarks/metrics.md.
    """

    name = "calibrated_r2"
    label = "R² calibrated per recipient stage"

    POWER = 1.5

    def _raw_similarity(self, observed: Observed, share: Share) -> float:
        return float(max(0.0, observed.statistics.explained(share)) ** self.POWER)


class CalibratedProduct(_Calibrated):
    """R^2 times image CKA: two views of how much of the recipient the donor explains.

    R^2 counts every direction at every position; image CKA counts which images are distinguished.
    """

    name = "calibrated"
    label = "R² times CKA, calibrated per recipient stage"

    def _raw_similarity(self, observed: Observed, share: Share) -> float:
        cka = observed.statistics.image_cka(Pair(share.donor, share.recipient))
        return max(0.0, observed.statistics.explained(share)) * float(np.clip(cka, 0, 1))


class _Anchors:
    """The shares whose measured fidelities fix the curves of some recipients.

    They are chosen from all legal linear shares, so that the similarity of a share does not
    depend on the other shares in the call.
    """

    def __init__(
        self,
        observed: Observed,
        recipients: set[Ref],
        raw_similarity: Callable[[Observed, Share], float],
    ) -> None:
        deployment = observed.deployment
        legal = [pair for pair in deployment.pairs.legal if pair.recipient in recipients]
        shares = enumerate_shares(legal, deployment.facts, (LINEAR,))
        self._layouts = layouts_by_model(deployment.facts)
        self.raw_similarity = {share: raw_similarity(observed, share) for share in shares}
        by_model = _grouped(shares, lambda share: (share.recipient, share.donor.model))
        self._peaks = {group: self._best(members).donor for group, members in by_model.items()}
        by_side = _grouped(shares, self._side)
        self.by_side = {side: self._best(members) for side, members in by_side.items()}

    def of(self, share: Share) -> Share:
        """Return the measured share on whose curve this share lies."""
        return self.by_side[self._side(share)]

    def _best(self, shares: Iterable[Share]) -> Share:
        return max(shares, key=lambda share: self.raw_similarity[share])

    def _side(self, share: Share) -> DonorSide:
        index = self._layouts[share.donor.model].index
        peak = self._peaks[share.recipient, share.donor.model]
        return share.recipient, int(np.sign(index(share.donor.stage) - index(peak.stage)))


def _on_curve(similarity: float, point: tuple[float, float]) -> float:
    """Return the fidelity at a raw similarity, on the lines from (0, 0) over the point to (1, 1).

    `point` is the raw similarity of a share and its measured fidelity.
    """
    measured_at, fidelity = point
    if similarity <= measured_at:
        return fidelity * similarity / measured_at if measured_at > 0 else 0.0
    return fidelity + (1 - fidelity) * (similarity - measured_at) / (1 - measured_at)


def _grouped(shares: Sequence[Share], key: Callable[[Share], Key]) -> dict[Key, list[Share]]:
    groups: dict[Key, list[Share]] = {}
    for share in shares:
        groups.setdefault(key(share), []).append(share)
    return groups
