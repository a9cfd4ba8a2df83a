"""Which group each camera belongs to: only cameras whose frames are new or have changed move.

A group that its last camera has left rests with the signature that it had: cameras that return to
an earlier state, as in the morning, return to its plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from search.drift.detection import Drift
from search.fleet.clustering import cluster_cameras
from search.fleet.signature import Scale, Signature

CLEARLY_NEARER = 0.5
"""A changed camera that still belongs to its group leaves it only for a group that is nearer than
this share of the distance to its own."""
PREFIX = "group-"
"""Of the names of groups, which are numbered as they are founded."""


@dataclass(frozen=True)
class Member:
    """The place of a camera in the fleet."""

    group: str
    since: int
    """Number of the round in which it came into the group."""
    reason: str
    """Why it is in the group."""
    look: int
    """Number of the last window of the frames that placed it, on which its signature rests."""
    window: int
    """Number of the last window that was compared with them, or placed it."""


@dataclass(frozen=True)
class Fleet:
    """All cameras and groups after a round."""

    round: int = 0
    models: str = ""
    """The `models_key` of the models that computed the features."""
    founded: int = 0
    """Number of groups ever founded."""
    members: Mapping[str, Member] = field(default_factory=dict)
    """By camera."""
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    """By camera."""
    groups: Mapping[str, Signature] = field(default_factory=dict)
    """The signatures of the groups by name; also of groups that rest."""

    def cameras_of(self, group: str) -> tuple[str, ...]:
        """Return the cameras of a group by name."""
        return tuple(sorted(n for n, member in self.members.items() if member.group == group))

    @property
    def occupied(self) -> tuple[str, ...]:
        """The groups that hold a camera, in the order of their founding."""
        held = {member.group for member in self.members.values()}
        return tuple(group for group in self.groups if group in held)

    def without_others(self, cameras: Collection[str]) -> Fleet:
        """Return the fleet with these cameras only."""
        return replace(
            self,
            members={name: m for name, m in self.members.items() if name in cameras},
            signatures={name: s for name, s in self.signatures.items() if name in cameras},
        )

    def compared(self, windows: Mapping[str, int]) -> Fleet:
        """Return the fleet after these windows of cameras, which have not changed."""
        seen = {name: replace(self.members[name], window=n) for name, n in windows.items()}
        return replace(self, members={**self.members, **seen})


@dataclass(frozen=True)
class Change:
    """How the new frames of a camera differ from those that placed it."""

    drift: Drift
    distance: float
    """Between the two signatures."""

    def __str__(self) -> str:
        return f"{self.distance:.2f} from those before, p = {self.drift.p_value:.1g}"

    def is_noticed(self, tolerance: float) -> bool:
        """Return whether the camera has to be placed again.

        The drift test notices changes of any kind, but from a small reference only large ones. A
        shift of the mean features as large as between two groups is noticed from few frames.
        """
        return self.drift.noticed or self.distance > tolerance


@dataclass(frozen=True)
class Arrival:
    """A camera to place: it is new, or its frames have changed."""

    camera: str
    signature: Signature
    window: int
    """Number of the last window of these frames."""
    change: Change | None
    """From the frames that placed it before; None for a new camera."""

    @property
    def cause(self) -> str:
        """Why it is placed, in words."""
        if self.change is None:
            return "its first frames"
        return f"its frames have changed ({self.change})"


def place_cameras(
    fleet: Fleet, arrivals: Iterable[Arrival], tolerance: float, number: int
) -> Fleet:
    """Return the fleet of round `number`, in which the arrivals have been placed.

    An arrival stays in its group while that is within `tolerance`, unless another is clearly
    nearer; else it joins the nearest group within `tolerance`. Arrivals that no group is near to
    found groups, by clustering. No other camera moves. The result does not depend on the order of
    the arrivals.
    """
    placing = {arrival.camera: arrival for arrival in sorted(arrivals, key=lambda a: a.camera)}
    fleet = replace(fleet, round=number)
    if not placing:
        return fleet
    settled = {name: s for name, s in fleet.signatures.items() if name not in placing}
    arrived = {name: arrival.signature for name, arrival in placing.items()}
    signatures = {**settled, **arrived}
    scale = Scale.of([*signatures.values(), *fleet.groups.values()])
    groups = _group_signatures(fleet.groups, fleet.members, settled)

    members = {name: m for name, m in fleet.members.items() if name not in placing}
    homeless: dict[str, str] = {}
    """Why no group took them, by camera."""
    for name, arrival in placing.items():
        distances = {g: scale.distance(arrival.signature, s) for g, s in groups.items()}
        before = fleet.members.get(name)
        choice = _choose(distances, before, tolerance)
        if choice is None:
            homeless[name] = f"{arrival.cause}: {_far_from(distances, before, tolerance)}"
        else:
            members[name] = _member(arrival, choice, distances, before, number)
    founded = fleet.founded
    for cluster in cluster_cameras({name: arrived[name] for name in homeless}, scale, tolerance):
        founded += 1
        group = f"{PREFIX}{founded}"
        groups[group] = Signature.average([arrived[name] for name in cluster])
        for name in cluster:
            reason, window = homeless[name], placing[name].window
            members[name] = Member(group, number, reason, window, window)
    return replace(
        fleet,
        founded=founded,
        members=dict(sorted(members.items())),
        signatures=dict(sorted(signatures.items())),
        groups=_group_signatures(groups, members, signatures),
    )


def _group_signatures(
    groups: Mapping[str, Signature],
    members: Mapping[str, Member],
    signatures: Mapping[str, Signature],
) -> dict[str, Signature]:
    """Return the signature of each group: of its cameras here, else the one that it had."""
    updated = dict(groups)
    for group in groups:
        here = [s for name, s in sorted(signatures.items()) if members[name].group == group]
        if here:
            updated[group] = Signature.average(here)
    return updated


def _choose(distances: Mapping[str, float], before: Member | None, tolerance: float) -> str | None:
    """Return the group of an arrival; None if no group is near."""
    near = {group: distance for group, distance in distances.items() if distance <= tolerance}
    if not near:
        return None
    nearest = min(near, key=near.__getitem__)
    own = None if before is None else near.get(before.group)
    if before is not None and own is not None and near[nearest] >= CLEARLY_NEARER * own:
        return before.group
    return nearest


def _member(
    arrival: Arrival,
    group: str,
    distances: Mapping[str, float],
    before: Member | None,
    number: int,
) -> Member:
    window = arrival.window
    here = f"{distances[group]:.2f} from {group}"
    if before is None:
        return Member(group, number, f"{arrival.cause}: {here}", window, window)
    if group == before.group:
        return replace(before, look=window, window=window)
    own = distances.get(before.group)
    far = "" if own is None else f"{own:.2f} from {before.group}, "
    return Member(group, number, f"{arrival.cause}: {far}{here}", window, window)


def _far_from(distances: Mapping[str, float], before: Member | None, tolerance: float) -> str:
    """Say that no group is near, and how far the nearest one and its own are."""
    if not distances:
        return "there was no group yet"
    nearest = min(distances, key=distances.__getitem__)
    named = [before.group] if before is not None and before.group in distances else []
    groups = dict.fromkeys([*named, nearest])
    listed = ", ".join(f"{distances[group]:.2f} from {group}" for group in groups)
    return f"{listed}; no group within {tolerance:g}"
