"""Lookups calibrated by a few measured fidelities per recipient stage."""

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
Side = tuple[Ref, int]
"""A recipient, and where in its own model a donor lies: before the best one (-1), after it (1)."""


class _Calibrated(Metric):
    """The fidelity that a lookup predicts, on a curve of its own for every recipient stage.

    A lookup orders the donors of one recipient stage well, but what a model makes of half a
    stage's variance differs from stage to stage; and a donor that lies deeper than the recipient
    keeps what matters at a lower number than one that lies before it. So the fidelity of up to
    three donors is measured per recipient stage, however many there are: of the one with the
    greatest number, and of the best on either side of it. From there the curve falls straight to
    0 at 0, and rises to 1 at 1.
    """

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        curves = _Curves(observed, {share.recipient for share in shares}, self._lookup)
        known = fidelity_alone(observed, list(dict.fromkeys(curves.anchors.values())))
        values = {}
        for share in shares:
            anchor = curves.anchor_of(share)
            point = curves.numbers[anchor], known[anchor]
            values[share] = _on_curve(self._lookup(observed, share), point)
            progress(1)
        return values

    @abstractmethod
    def _lookup(self, observed: Observed, share: Share) -> float:
        """From 0 to 1."""


class CalibratedExplained(_Calibrated):
    """R^2, to the power at which fidelity is nearest to a straight line.

    Measured in docs/benchmarks/metrics.md.
    """

    name = "calibrated_r2"
    label = "R² calibrated per recipient stage"

    POWER = 1.5

    def _lookup(self, observed: Observed, share: Share) -> float:
        return float(max(0.0, observed.statistics.explained(share)) ** self.POWER)


class CalibratedProduct(_Calibrated):
    """R^2 times image CKA: how much of the recipient the donor knows, and of what the images say.

    R^2 counts every direction of every position; image CKA sees which pictures are told apart.
    """

    name = "calibrated"
    label = "R² times CKA, calibrated per recipient stage"

    def _lookup(self, observed: Observed, share: Share) -> float:
        seen = observed.statistics.image_cka(Pair(share.donor, share.recipient))
        return max(0.0, observed.statistics.explained(share)) * float(np.clip(seen, 0, 1))


class _Curves:
    """Which shares' fidelities the curves of some recipients hang on.

    They are chosen from all legal linear shares, so that a share's number does not depend on
    which others are asked for.
    """

    def __init__(
        self,
        observed: Observed,
        recipients: set[Ref],
        lookup: Callable[[Observed, Share], float],
    ) -> None:
        deployment = observed.deployment
        legal = [pair for pair in deployment.pairs.legal if pair.recipient in recipients]
        shares = enumerate_shares(legal, deployment.facts, (LINEAR,))
        self._layouts = layouts_by_model(deployment.facts)
        self.numbers = {share: lookup(observed, share) for share in shares}
        by_model = _grouped(shares, lambda share: (share.recipient, share.donor.model))
        self._peaks = {group: self._best(members).donor for group, members in by_model.items()}
        by_side = _grouped(shares, self._side)
        self.anchors = {side: self._best(members) for side, members in by_side.items()}

    def anchor_of(self, share: Share) -> Share:
        return self.anchors[self._side(share)]

    def _best(self, shares: Iterable[Share]) -> Share:
        return max(shares, key=lambda share: self.numbers[share])

    def _side(self, share: Share) -> Side:
        index = self._layouts[share.donor.model].index
        peak = self._peaks[share.recipient, share.donor.model]
        return share.recipient, int(np.sign(index(share.donor.stage) - index(peak.stage)))


def _on_curve(number: float, point: tuple[float, float]) -> float:
    """Fidelity at a number, on the lines through 0 at 0, the measured point, and 1 at 1."""
    reached, fidelity = point
    if number <= reached:
        return fidelity * number / reached if reached > 0 else 0.0
    return fidelity + (1 - fidelity) * (number - reached) / (1 - reached)


def _grouped(shares: Sequence[Share], key: Callable[[Share], Key]) -> dict[Key, list[Share]]:
    groups: dict[Key, list[Share]] = {}
    for share in shares:
        groups.setdefault(key(share), []).append(share)
    return groups
