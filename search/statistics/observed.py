"""A deployment with the statistics that one pass over its frames has measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from search.data.frames import FrameSet, Subset
from search.execution.jobs import Engine, LocalEngine
from search.statistics.similarity import Statistics
from spaces.adapters import LinearMap
from spaces.deployment import Deployment
from spaces.plan import LINEAR, Share, SharePlan
from spaces.precision import round_map

MOST_MAP_BYTES = 2**29
"""Bytes of the maps that are held at a time where every share is measured alone."""
MOST_KEPT_BYTES = 2**28
"""Bytes of the maps that are kept, beside these, for the next time that a share is measured."""


@dataclass(frozen=True)
class FramePart:
    """One of the sets of frames. Its numbers depend on no other set but the first."""

    held_out: Subset
    """The frames that no statistics were measured on."""
    statistics: Callable[[], Statistics]
    """Returns the statistics of this part and the first one; loads them at the first call."""
    cache_folder: Path
    """Folder for measurements on this part; different for other models, frames or settings."""


class KeptMaps:
    """Maps of shares that are measured several times, as many as MOST_KEPT_BYTES allows."""

    def __init__(self) -> None:
        self.by_share: dict[Share, LinearMap] = {}

    def add(self, maps: Mapping[Share, LinearMap]) -> None:
        """Keep maps, unless they are too large."""
        together = self.by_share | {**maps}
        if sum(linear.weight.nbytes for linear in together.values()) <= MOST_KEPT_BYTES:
            self.by_share = together


@dataclass(frozen=True)
class Observed:
    """A deployment with the statistics of its frames, and the frames held out for fidelity."""

    deployment: Deployment
    statistics: Statistics
    frames: FrameSet
    held_out: Subset
    """The frames that the statistics were not measured on."""
    parts: tuple[FramePart, ...] = ()
    """The sets of frames; empty if no measurement is to be cached."""
    cluster: Engine | None = None
    """Does what takes long on frames; None: this process does it."""
    kept_maps: KeptMaps | None = None
    """Of these statistics; None: no maps are kept."""

    @property
    def engine(self) -> Engine:
        """Does jobs on frames, with the deployment's models."""
        return self.cluster or LocalEngine(self.deployment)

    @property
    def statistics_frames(self) -> Subset:
        """The frames that the statistics were measured on."""
        held_out = {*self.held_out.indices}
        used = (k for k in range(len(self.frames)) if k not in held_out)
        return Subset(self.frames, tuple(used))

    def maps_for(self, plans: Sequence[SharePlan]) -> dict[Share, LinearMap]:
        """Return the closed-form map of each linear share, at the deployment's precision."""
        shares = {share for plan in plans for share in plan.mapped_shares}
        maps = self.statistics.linear_maps(sorted(shares))
        return {s: round_map(fitted, self.deployment.dtype) for s, fitted in maps.items()}

    def keeping_maps(self) -> Observed:
        """Return the same for a measurement that needs the maps of some shares again."""
        return replace(self, kept_maps=KeptMaps())

    def maps_of(self, shares: Sequence[Share]) -> dict[Share, LinearMap]:
        """Return the closed-form map of each of the shares that is linear."""
        kept = self.kept_maps or KeptMaps()
        known = {share: kept.by_share[share] for share in shares if share in kept.by_share}
        fitted = self.maps_for([SharePlan((share,)) for share in shares if share not in known])
        kept.add(fitted)
        return known | fitted

    def with_maps(
        self, shares: Sequence[Share]
    ) -> Iterator[tuple[Sequence[Share], dict[Share, LinearMap]]]:
        """Yield all shares with their maps, group by group."""
        for group in self.groups(shares):
            yield group, self.maps_of(group)

    def groups(self, shares: Sequence[Share]) -> list[Sequence[Share]]:
        """Return all shares in as few groups as MOST_MAP_BYTES allows for the maps of each.

        If there are several, shares between the same models, which compute most in common, are
        together.
        """
        sizes = {share: self._map_bytes(share) for share in shares}
        if sum(sizes.values()) <= MOST_MAP_BYTES:
            return [shares]
        groups: list[list[Share]] = [[]]
        held = 0
        for share in sorted(shares, key=lambda s: (s.donor.model, s.recipient.model, s)):
            if groups[-1] and held + sizes[share] > MOST_MAP_BYTES:
                groups.append([])
                held = 0
            groups[-1].append(share)
            held += sizes[share]
        return [*groups]

    def _map_bytes(self, share: Share) -> int:
        """Return the bytes of a share's map in float32."""
        donor, recipient = (
            self.deployment.facts[ref.model].stage(ref.stage).channels
            for ref in (share.donor, share.recipient)
        )
        return 4 * (donor + 1) * recipient if share.adapter.kind == LINEAR.kind else 0
