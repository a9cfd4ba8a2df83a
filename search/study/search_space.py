"""The search space: trial parameters to plan, and plan to trial parameters.

The taps divide a backbone into segments, and of the shares within one segment only the last can
reach the head. So there is one categorical parameter for each model and segment: no share, or one
of the legal shares whose recipient lies in that segment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from spaces.errors import BadPlan
from spaces.liveness import Layouts, canonical
from spaces.plan import Share, SharePlan

NO_SHARE_KEY = "-"
"""The choice of a parameter that stands for no share."""
CACHED_PLANS = 20_000
"""Parameter combinations whose plans are kept in memory."""


@dataclass(frozen=True)
class Slot:
    """One parameter: a segment of a model, and the shares whose recipient lies in it."""

    name: str
    """`model:tap`, with the tap that ends the segment."""
    choices: Mapping[str, Share | None]
    """The shares by the parameter's values; NO_SHARE_KEY stands for None."""


class SearchSpace:
    """The finite space of plans that the study explores."""

    def __init__(self, layouts: Layouts, shares: Sequence[Share]) -> None:
        self.layouts = layouts
        self.slots = tuple(slot for slot in _slots(layouts, shares) if len(slot.choices) > 1)
        self._cached_plan = lru_cache(maxsize=CACHED_PLANS)(self._plan)
        self._parameter_of: dict[Share, tuple[str, str]] = {
            share: (slot.name, key)
            for slot in self.slots
            for key, share in slot.choices.items()
            if share is not None
        }
        """The slot and value that stand for each share, in the order of the slots' choices."""
        self._order = {share: place for place, share in enumerate(self._parameter_of)}

    @property
    def size(self) -> int:
        """Number of parameter combinations; several may decode to the same plan."""
        total = 1
        for slot in self.slots:
            total *= len(slot.choices)
        return total

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits, equal for two spaces whose parameters mean the same."""
        text = repr([(slot.name, tuple(slot.choices)) for slot in self.slots])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def decode(self, parameters: Mapping[str, str]) -> SharePlan:
        """Return the canonical plan of a trial's parameters.

        If the shares form a cycle, they are added one by one, and a share that would close a cycle
        is left out.
        """
        return self._cached_plan(*(parameters[slot.name] for slot in self.slots))

    def _plan(self, *chosen: str) -> SharePlan:
        choices = (slot.choices[key] for slot, key in zip(self.slots, chosen, strict=True))
        shares = [share for share in choices if share is not None]
        try:
            return canonical(SharePlan(tuple(shares)), self.layouts)
        except BadPlan:
            return self._without_cycles(shares)

    def _without_cycles(self, shares: Sequence[Share]) -> SharePlan:
        added: tuple[Share, ...] = ()
        plan = SharePlan()
        for share in shares:
            try:
                plan = canonical(SharePlan((*added, share)), self.layouts)
            except BadPlan:
                continue
            added = (*added, share)
        return plan

    def encode(self, plan: SharePlan) -> dict[str, str]:
        """Return parameters that decode to the plan, without shares that are not in the space."""
        shares = [share for share in plan.shares if share in self._order]
        shares.sort(key=self._order.__getitem__)
        chosen = [self._parameter_of[share] for share in shares]
        return {slot.name: NO_SHARE_KEY for slot in self.slots} | dict(chosen)


def _slots(layouts: Layouts, shares: Sequence[Share]) -> list[Slot]:
    slots = []
    for name, layout in layouts.items():
        start = 0
        for tap in sorted(layout.taps, key=layout.index):
            end = layout.index(tap) + 1
            segment = layout.stages[start:end]
            start = end
            choices: dict[str, Share | None] = {NO_SHARE_KEY: None}
            for share in shares:
                if share.recipient.model == name and share.recipient.stage in segment:
                    choices[str(share)] = share
            slots.append(Slot(f"{name}:{tap}", choices))
    return slots
