"""Plan -> predicted quality, from the similarities alone; runs no model."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt

from search.study.precision.profiles import RoundingLosses
from spaces.liveness import Layouts, previous_stage
from spaces.plan import HEAD, Ref, Share, SharePlan


class Proxy:
    """Predicts the share of its quality that each model keeps under a plan, 0 to 1.

    A share keeps as much as its similarity, clipped to 0 to 1. A tap keeps the product over all
    shares upstream of it, a model the mean over its taps, a plan the mean over its models.

    Roundings of weights act as independent noise: the losses of all stages upstream of a tap, and
    of the head, add up as the root of the sum of their squares. The tap keeps the rest.
    """

    def __init__(
        self,
        similarity: Mapping[Share, float],
        layouts: Layouts,
        rounding_losses: RoundingLosses | None = None,
    ) -> None:
        self.quality_by_share = {
            share: min(1.0, max(0.0, value)) for share, value in similarity.items()
        }
        self.layouts = layouts
        self.rounding_losses = rounding_losses or {}

    def quality(self, plan: SharePlan) -> float:
        """Return the predicted quality of a canonical plan, 0 to 1."""
        by_model = self.by_model(plan)
        return sum(by_model.values()) / len(by_model)

    def by_model(self, plan: SharePlan) -> dict[str, float]:
        """Return the predicted quality of each model under a canonical plan, 0 to 1."""
        shares = plan.by_recipient()
        squares = {
            owner: self.rounding_losses.get((owner, precision), 0.0) ** 2
            for owner, precision in plan.precisions
        }
        return {
            name: sum(self._tap(Ref(name, tap), shares, squares) for tap in layout.taps)
            / len(layout.taps)
            for name, layout in self.layouts.items()
        }

    def _tap(self, tap: Ref, shares: Mapping[Ref, Share], squares: Mapping[Ref, float]) -> float:
        upstream, stages = walk_upstream(tap, shares, self.layouts)
        noise = sum(squares.get(owner, 0.0) for owner in (*stages, Ref(tap.model, HEAD)))
        quality = prod(self.quality_by_share[share] for share in upstream)
        return quality * max(0.0, 1.0 - sqrt(noise))


def upstream_shares(ref: Ref, shares: Mapping[Ref, Share], layouts: Layouts) -> list[Share]:
    """Return the shares that a representation depends on, nearest first.

    `shares` are a plan's shares by recipient.
    """
    return walk_upstream(ref, shares, layouts)[0]


def walk_upstream(
    ref: Ref, shares: Mapping[Ref, Share], layouts: Layouts
) -> tuple[list[Share], list[Ref]]:
    """Return the shares and the stages that a representation depends on, nearest first."""
    upstream: list[Share] = []
    stages: list[Ref] = []
    current: Ref | None = ref
    while current is not None:
        share = shares.get(current)
        if share is not None:
            upstream.append(share)
            current = share.donor
        else:
            stages.append(current)
            current = previous_stage(current, layouts)
    return upstream, stages
