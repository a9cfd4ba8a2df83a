"""R^2 calibrated by a few measured fidelities per recipient stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from search.metric import Metric, Progress, silent
from search.observed import Observed
from search.pair_fidelity import fidelity_alone
from spaces.plan import LINEAR, Ref, Share
from spaces.shares import shares_of

POWER = 2
"""Fidelity falls with this power of R^2; measured, docs/guides.md: 1.5 to 2.5 do about as well."""

Key = TypeVar("Key")
Side = tuple[Ref, int]
"""A recipient, and where in its own model a donor lies: before the best one (-1), after it (1)."""


class CalibratedExplained(Metric):
    """The fidelity that R^2 predicts, on a curve of its own for every recipient stage.

    R^2 orders the donors of one recipient stage well, but what a model makes of half a stage's
    variance differs from stage to stage; and a donor that lies deeper than the recipient keeps
    what matters at a lower R^2 than one that lies before it. So the fidelity of up to three
    donors is measured per recipient stage, however many there are: of the one with the highest
    R^2, and of the best on either side of it. From there the curve falls to 0 with R^2 squared,
    and rises to 1 where R^2 does (another adapter may explain more than the measured one).
    """

    name = "calibrated_r2"
    label = "R² calibrated per recipient stage"

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        curves = _Curves(observed, {share.recipient for share in shares})
        known = fidelity_alone(observed, list(dict.fromkeys(curves.anchors.values())))
        values = {}
        for share in shares:
            anchor = curves.anchor_of(share)
            point = curves.explained[anchor], known[anchor]
            values[share] = _on_curve(observed.statistics.explained(share), point)
            progress(1)
        return values


class _Curves:
    """Which shares' fidelities the curves of some recipients hang on.

    They are chosen from all legal linear shares, so that a share's number does not depend on
    which others are asked for.
    """

    def __init__(self, observed: Observed, recipients: set[Ref]) -> None:
        deployment = observed.deployment
        legal = [pair for pair in deployment.pairs.legal if pair.recipient in recipients]
        shares = shares_of(legal, deployment.facts, (LINEAR,))
        self._layouts = {name: fact.layout for name, fact in deployment.facts.items()}
        self.explained = {share: observed.statistics.explained(share) for share in shares}
        by_model = _grouped(shares, lambda share: (share.recipient, share.donor.model))
        self._peaks = {group: self._best(members).donor for group, members in by_model.items()}
        by_side = _grouped(shares, self._side)
        self.anchors = {side: self._best(members) for side, members in by_side.items()}

    def anchor_of(self, share: Share) -> Share:
        return self.anchors[self._side(share)]

    def _best(self, shares: Iterable[Share]) -> Share:
        return max(shares, key=lambda share: self.explained[share])

    def _side(self, share: Share) -> Side:
        index = self._layouts[share.donor.model].index
        peak = self._peaks[share.recipient, share.donor.model]
        return share.recipient, int(np.sign(index(share.donor.stage) - index(peak.stage)))


def _on_curve(explained: float, point: tuple[float, float]) -> float:
    """Fidelity at an R^2, on the curve through 0, the measured (R^2, fidelity), and 1 at 1."""
    reached, fidelity = point
    if explained <= reached:
        return fidelity * (max(0.0, explained) / reached) ** POWER if reached > 0 else 0.0
    return fidelity + (1 - fidelity) * max(0.0, explained - reached) / (1 - reached)


def _grouped(shares: Sequence[Share], key: Callable[[Share], Key]) -> dict[Key, list[Share]]:
    groups: dict[Key, list[Share]] = {}
    for share in shares:
        groups.setdefault(key(share), []).append(share)
    return groups
