"""Plan -> predicted quality, from the similarities alone; runs no model."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from spaces.liveness import Layouts, previous_stage
from spaces.plan import Ref, Share, SharePlan


class Proxy:
    """Predicts the share of its quality that each model keeps under a plan, 0 to 1.

    A share keeps as much as its similarity, clipped to 0 to 1. A tap keeps the product over all
    shares upstream of it, a model the mean over its taps, a plan the mean over its models.
    """

    def __init__(self, similarity: Mapping[Share, float], layouts: Layouts) -> None:
        self.quality_by_share = {
            share: min(1.0, max(0.0, value)) for share, value in similarity.items()
        }
        self.layouts = layouts

    def quality(self, plan: SharePlan) -> float:
        """Return the predicted quality of a canonical plan, 0 to 1."""
        by_model = self.by_model(plan)
        return sum(by_model.values()) / len(by_model)

    def by_model(self, plan: SharePlan) -> dict[str, float]:
        """Return the predicted quality of each model under a canonical plan, 0 to 1."""
        shares = plan.by_recipient()
        return {
            name: sum(self._tap(Ref(name, tap), shares) for tap in layout.taps) / len(layout.taps)
            for name, layout in self.layouts.items()
        }

    def _tap(self, tap: Ref, shares: Mapping[Ref, Share]) -> float:
        upstream = upstream_shares(tap, shares, self.layouts)
        return prod(self.quality_by_share[share] for share in upstream)


def upstream_shares(ref: Ref, shares: Mapping[Ref, Share], layouts: Layouts) -> list[Share]:
    """Return the shares that a representation depends on, nearest first.

    `shares` are a plan's shares by recipient.
    """
    upstream: list[Share] = []
    current: Ref | None = ref
    while current is not None:
        share = shares.get(current)
        if share is not None:
            upstream.append(share)
            current = share.donor
        else:
            current = previous_stage(current, layouts)
    return upstream
