"""Plan -> predicted quality, from the similarities alone; runs no model."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from spaces.liveness import Layouts, previous_stage
from spaces.plan import Ref, Share, SharePlan


class Proxy:
    """The predicted share of their quality that the models keep under a plan, 0 to 1.

    A share keeps its similarity's part of what passes through it; a tap keeps the product over
    all shares upstream of it; a model the mean over its taps; the plan the mean over its models.
    """

    def __init__(self, similarity: Mapping[Share, float], layouts: Layouts) -> None:
        self.kept = {share: min(1.0, max(0.0, value)) for share, value in similarity.items()}
        self.layouts = layouts

    def quality(self, plan: SharePlan) -> float:
        """Predicted quality of a canonical plan."""
        by_model = self.by_model(plan)
        return sum(by_model.values()) / len(by_model)

    def by_model(self, plan: SharePlan) -> dict[str, float]:
        shares = plan.by_recipient()
        return {
            name: sum(self._tap(Ref(name, tap), shares) for tap in layout.taps) / len(layout.taps)
            for name, layout in self.layouts.items()
        }

    def _tap(self, tap: Ref, shares: Mapping[Ref, Share]) -> float:
        return prod(self.kept[share] for share in upstream(tap, shares, self.layouts))


def upstream(ref: Ref, shares: Mapping[Ref, Share], layouts: Layouts) -> list[Share]:
    """The shares that a representation depends on, nearest first."""
    found: list[Share] = []
    at: Ref | None = ref
    while at is not None:
        share = shares.get(at)
        if share is not None:
            found.append(share)
            at = share.donor
        else:
            at = previous_stage(at, layouts)
    return found
