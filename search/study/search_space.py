"""The search space: trial parameters to plan, and plan to trial parameters.

The taps divide a backbone into segments, and of the shares within one segment only the last can
reach the head. So there is one categorical parameter for each model and segment: no share, or one
of the legal shares whose recipient lies in that segment. If there are several precision profiles,
one more parameter chooses among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from search.study.precision.profiles import FactsByName, Profile, apply_profile
from spaces.errors import BadPlan
from spaces.liveness import Layouts, canonical
from spaces.plan import Share, SharePlan

NO_SHARE_KEY = "-"
"""The choice of a parameter that stands for no share."""
PRECISION = "precision"
"""The parameter that chooses a precision profile, by its number."""
CACHED_PLANS = 20_000
"""Parameter combinations whose plans are kept in memory."""


@dataclass(frozen=True)
class Slot:
    """One parameter: a segment of a model, and the shares whose recipient lies in it."""

    name: str
    """`model:tap`, with the tap that ends the segment."""
    choices: Mapping[str, Share | None]
    """The shares by the parameter's values; NO_SHARE_KEY stands for None."""


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision profiles of a space, and the facts that a plan's own weights follow from."""

    facts: FactsByName
    profiles: tuple[Profile, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The values of the parameter, in the order of the profiles; none without a choice."""
        count = len(self.profiles)
        return tuple(str(number) for number in range(count)) if count > 1 else ()

    def apply(self, plan: SharePlan, key: str) -> SharePlan:
        """Return a canonical plan of shares with the precisions of a profile."""
        return apply_profile(plan, self.profiles[int(key)], self.facts) if self.profiles else plan

    def nearest(self, plan: SharePlan) -> str:
        """Return the key of the profile that stores most weights of a plan as the plan does."""
        shares, own = plan.with_precisions({}), set(plan.precisions)
        differences = {
            key: len(own ^ set(self.apply(shares, key).precisions)) for key in self.keys
        }
        return min(differences, key=differences.__getitem__)


class SearchSpace:
    """The finite space of plans that the study explores."""

    def __init__(
        self,
        layouts: Layouts,
        shares: Sequence[Share],
        precision: PrecisionChoice | None = None,
    ) -> None:
        self.layouts = layouts
        self.precision = precision or PrecisionChoice({})
        self.slots = tuple(slot for slot in _slots(layouts, shares) if len(slot.choices) > 1)
        self.choices: dict[str, tuple[str, ...]] = {
            slot.name: tuple(slot.choices) for slot in self.slots
        }
        """The values of each parameter by its name."""
        if self.precision.keys:
            self.choices[PRECISION] = self.precision.keys
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
        return prod(len(keys) for keys in self.choices.values())

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits, equal for two spaces whose parameters mean the same."""
        text = repr(list(self.choices.items()))
        if self.precision.profiles:
            text += repr([sorted(profile.items()) for profile in self.precision.profiles])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def decode(self, parameters: Mapping[str, str]) -> SharePlan:
        """Return the canonical plan of a trial's parameters.

        If the shares form a cycle, they are added one by one, and a share that would close a cycle
        is left out.
        """
        profile = parameters[PRECISION] if self.precision.keys else "0"
        return self._cached_plan(profile, *(parameters[slot.name] for slot in self.slots))

    def _plan(self, profile: str, *chosen: str) -> SharePlan:
        return self.precision.apply(self._share_plan(*chosen), profile)

    def _share_plan(self, *chosen: str) -> SharePlan:
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
        """Return parameters that decode to the plan, without shares that are not in the space.

        Precisions that no profile gives become those of the nearest profile.
        """
        shares = [share for share in plan.shares if share in self._order]
        shares.sort(key=self._order.__getitem__)
        chosen = [self._parameter_of[share] for share in shares]
        parameters = {slot.name: NO_SHARE_KEY for slot in self.slots} | dict(chosen)
        if self.precision.keys:
            parameters[PRECISION] = self.precision.nearest(
                self._share_plan(*parameters.values()).with_precisions(plan.precision_by_owner)
            )
        return parameters


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
