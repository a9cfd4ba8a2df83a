"""Trial parameters <-> plan.

A head's taps cut its backbone into segments, and of the shares within one segment only the last
can matter to the head. So there is one categorical parameter per model and segment: no share, or
one of the legal shares whose recipient lies in that segment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from spaces.errors import BadPlan
from spaces.liveness import Layouts, canonical
from spaces.plan import Share, SharePlan

NOTHING = "-"
REMEMBERED = 20_000
"""So many parameter combinations are decoded once only."""


@dataclass(frozen=True)
class Slot:
    """One parameter: where in a model a share may land, and the shares that may land there."""

    name: str
    choices: Mapping[str, Share | None]


class Encoding:
    """The finite space of plans that the study explores."""

    def __init__(self, layouts: Layouts, shares: Sequence[Share]) -> None:
        self.layouts = layouts
        self.slots = tuple(slot for slot in _slots(layouts, shares) if len(slot.choices) > 1)
        self._plan_of = lru_cache(maxsize=REMEMBERED)(self._plan)
        self._chosen_by: dict[Share, tuple[str, str]] = {
            share: (slot.name, key)
            for slot in self.slots
            for key, share in slot.choices.items()
            if share is not None
        }
        """Share -> its slot's name and its key there, in the order of the slots' choices."""
        self._order = {share: place for place, share in enumerate(self._chosen_by)}

    @property
    def size(self) -> int:
        """Number of parameter combinations; equal plans are counted as often as they occur."""
        total = 1
        for slot in self.slots:
            total *= len(slot.choices)
        return total

    @property
    def fingerprint(self) -> str:
        """The same for two encodings whose parameters mean the same."""
        text = repr([(slot.name, tuple(slot.choices)) for slot in self.slots])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def decode(self, parameters: Mapping[str, str]) -> SharePlan:
        """The canonical plan of a trial.

        If the shares close a cycle they are put in one by one, without those that would close it.
        """
        return self._plan_of(*(parameters[slot.name] for slot in self.slots))

    def _plan(self, *chosen: str) -> SharePlan:
        picked = (slot.choices[key] for slot, key in zip(self.slots, chosen, strict=True))
        shares = [share for share in picked if share is not None]
        try:
            return canonical(SharePlan(tuple(shares)), self.layouts)
        except BadPlan:
            return self._without_cycles(shares)

    def _without_cycles(self, shares: Sequence[Share]) -> SharePlan:
        kept: tuple[Share, ...] = ()
        plan = SharePlan()
        for share in shares:
            try:
                plan = canonical(SharePlan((*kept, share)), self.layouts)
            except BadPlan:
                continue
            kept = (*kept, share)
        return plan

    def encode(self, plan: SharePlan) -> dict[str, str]:
        """Parameters that decode to the plan; shares that the space does not hold are left out."""
        held = [share for share in plan.shares if share in self._order]
        chosen = [self._chosen_by[share] for share in sorted(held, key=self._order.__getitem__)]
        return {slot.name: NOTHING for slot in self.slots} | dict(chosen)


def _slots(layouts: Layouts, shares: Sequence[Share]) -> list[Slot]:
    slots = []
    for name, layout in layouts.items():
        start = 0
        for tap in sorted(layout.taps, key=layout.index):
            end = layout.index(tap) + 1
            segment = layout.stages[start:end]
            start = end
            choices: dict[str, Share | None] = {NOTHING: None}
            for share in shares:
                if share.recipient.model == name and share.recipient.stage in segment:
                    choices[str(share)] = share
            slots.append(Slot(f"{name}:{tap}", choices))
    return slots
