"""Bytes and predicted quality of very many complete plans at a time, in numpy.

Three facts about segments (see `segments`) replace the walk back from the taps that
`spaces.liveness` makes for a single plan:

- Every share is live: the tap at its segment's end depends on it.
- Which stages of a segment are live follows from two numbers, `replaced` and `retained`.
- What a tap depends on is a chain of segments. A *suffix donor*, at or above the recipient in its
  own segment, depends on that segment's share. A *prefix donor*, below the recipient, does not: it
  depends on the end of the previous segment, or on the input.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from search.study.exact.byte_tables import AdapterBytes, StageBytes
from search.study.exact.segments import (
    NO_SHARE,
    Bools,
    Floats,
    Ints,
    quality_weights,
    split_into_segments,
    stage_positions,
)
from search.study.precision.profiles import NO_PROFILE, Profile
from search.study.problem import Problem
from search.study.proxy import Proxy
from spaces.cost import CostModel
from spaces.plan import HEAD, Ref, Share, SharePlan

NOT_HELD = -1.0
"""Stands for the quality of a share that the space of plans does not hold."""


@dataclass(frozen=True)
class PlanValues:
    """The values of complete plans; all arrays are (n,)."""

    bytes: Ints
    quality: Floats
    """Mean over the models; equal to the proxy's but for rounding."""
    worst: Floats
    """The lowest quality of any model."""
    acyclic: Bools
    """False where a representation would depend on itself, which no plan allows."""


@dataclass(frozen=True)
class PlanStructure:
    """What follows from the shares of complete plans; all arrays are (segments, n)."""

    replaced: Ints
    retained: Ints
    donor_segment: Ints
    """The segment of each share's donor; without a share the segment itself."""
    from_prefix: Bools
    """Whether the donor is a prefix donor."""
    depends_on: Ints
    """The segment whose end each segment's end depends on, or INPUT."""


class PlanTable:
    """The shares of a problem by number, and the tables that plans are evaluated with.

    A complete plan is a column of share numbers, (segments,), with NO_SHARE where a segment has no
    share; many plans are an array `chosen`, (segments, n). Arrays over shares have a last entry
    for NO_SHARE, which is index -1.
    """

    def __init__(self, problem: Problem, profile: Profile = NO_PROFILE) -> None:
        costs = CostModel(problem.facts)
        self.segments = tuple(split_into_segments(problem.layouts))
        self.shares = tuple(_shares_of(problem))
        self.positions = stage_positions(self.segments)
        recipients = [self.positions[share.recipient] for share in self.shares]
        donors = [self.positions[share.donor] for share in self.shares]
        self.recipient_segment = np.array([segment for segment, _ in recipients] + [0], np.intp)
        self.recipient_position = np.array([place for _, place in recipients] + [0], np.intp)
        self.donor_segment = np.array([segment for segment, _ in donors] + [0], np.intp)
        self.donor_position = np.array([place for _, place in donors] + [0], np.intp)
        self.quality = self._quality_in(problem)
        """(shares + 1,): the part of the quality that each share keeps, 0 to 1, or NOT_HELD."""
        self.replaced_without_share = np.array(
            [segment.replaced_without_share for segment in self.segments], np.intp
        )
        self.previous = np.array([segment.previous for segment in self.segments], np.intp)
        self.weights = quality_weights(self.segments, problem.layouts)
        self.tapped = np.array([segment.taps > 0 for segment in self.segments])
        self.stage_bytes = StageBytes(self.segments, problem.facts, profile)
        self.adapter_bytes = AdapterBytes(
            self.shares, list(self.positions), problem.facts, costs, profile
        )
        self._set_noise(problem, profile)

    def with_quality(self, problem: Problem) -> PlanTable:
        """Return the table of a problem whose shares, or some of them, keep other qualities."""
        other = copy.copy(self)
        other.quality = self._quality_in(problem)
        return other

    def _quality_in(self, problem: Problem) -> Floats:
        proxy = Proxy(problem.quality_by_share, problem.layouts)
        kept = [proxy.quality_by_share.get(share, NOT_HELD) for share in self.shares]
        return np.array([*kept, 1.0])

    def _set_noise(self, problem: Problem, profile: Profile) -> None:
        """Set the noise of roundings, squared losses, that each way to a segment's end adds.

        The way through a share leads past the end of the donor's segment, whose stages after the
        donor do not count: a suffix donor's noise may be negative.
        """

        def noise(owner: Ref) -> float:
            entry = (owner, profile.get(owner, problem.facts[owner.model].dtype))
            return problem.rounding_losses.get(entry, 0.0) ** 2

        after = np.zeros(len(self.shares) + 1)
        upto, whole = np.zeros_like(after), np.zeros(len(self.segments))
        sums = [
            np.cumsum([0.0, *(noise(Ref(s.model, stage)) for stage in s.stages)])
            for s in self.segments
        ]
        for number in range(len(self.shares)):
            recipient = sums[self.recipient_segment[number]]
            after[number] = recipient[-1] - recipient[self.recipient_position[number]]
            donor = self.donor_segment[number]
            upto[number] = sums[donor][self.donor_position[number]]
            whole[donor] = sums[donor][-1]
        self.own_noise = np.array([total[-1] for total in sums])
        """(segments,): of a segment without a share, from the end of the one before."""
        self.prefix_noise = after + upto
        """(shares + 1,): of each share of a prefix donor, from the end of the segment before."""
        self.suffix_noise = self.prefix_noise - whole[self.donor_segment]
        """(shares + 1,): of each share of a suffix donor, from the end of its segment."""
        self.head_noise = np.array([noise(Ref(s.model, HEAD)) for s in self.segments])[:, None]
        """(segments, 1): of the head of each segment's model."""
        self.is_noisy = bool(self.own_noise.any() or self.head_noise.any())

    def quality_after_noise(self, end_quality: Floats, end_noise: Floats) -> Floats:
        """Return what a tap at each segment's end keeps, (segments, n)."""
        if not self.is_noisy:
            return end_quality
        noise = np.maximum(end_noise, 0.0) + self.head_noise
        kept: Floats = end_quality * np.maximum(0.0, 1.0 - np.sqrt(noise))
        return kept

    def shares_into(self, segment: int) -> Ints:
        """Return the numbers of the shares whose recipient lies in a segment."""
        into = self.recipient_segment[:-1] == segment
        return np.flatnonzero(into & (self.quality[:-1] != NOT_HELD))

    def replaced_options(self, segment: int) -> Ints:
        """Return the values that `replaced` can take in a segment; first the one of no share."""
        positions = {int(self.recipient_position[share]) for share in self.shares_into(segment)}
        return np.array([int(self.replaced_without_share[segment]), *sorted(positions)], np.intp)

    def plan(self, column: Ints) -> SharePlan:
        """Return the plan of one column, (segments,)."""
        return SharePlan(tuple(self.shares[number] for number in column if number != NO_SHARE))

    def column(self, plan: SharePlan) -> Ints:
        """Return a plan's column, (segments,), without shares that the space does not hold."""
        column = np.full(len(self.segments), NO_SHARE)
        for number, share in enumerate(self.shares):
            if share in plan.shares and self.quality[number] != NOT_HELD:
                column[self.recipient_segment[number]] = number
        return column

    def undominated_shares(self) -> list[int]:
        """Return the numbers of the shares that a plan on the front may need.

        A share is left out if another adapter between the same two representations keeps no less
        quality and costs no more bytes in any context.
        """
        rivals_by_ends: dict[tuple[Ref, Ref], list[int]] = {}
        for number, share in enumerate(self.shares):
            rivals = rivals_by_ends.setdefault((share.recipient, share.donor), [])
            if not any(self._dominates(rival, number) for rival in rivals):
                rivals[:] = [r for r in rivals if not self._dominates(number, r)] + [number]
        return sorted(number for rivals in rivals_by_ends.values() for number in rivals)

    def _dominates(self, share: int, other: int) -> bool:
        table = self.adapter_bytes.table
        no_more_bytes = (table[share] <= table[other]).all()
        return bool(self.quality[share] >= self.quality[other] and no_more_bytes)

    def evaluate(self, chosen: Ints) -> PlanValues:
        """Return the values of complete plans, (segments, n)."""
        live = self.structure(chosen)
        end_quality = self._end_quality(self.quality[chosen], live.depends_on)
        end_noise = self._end_noise(chosen, live.from_prefix, live.depends_on)
        total = self.stage_bytes.bytes(live.replaced, live.retained)
        if self.adapter_bytes.any:
            total += self._adapter_bytes(chosen, live)
        by_model = self.weights @ self.quality_after_noise(end_quality, end_noise)
        acyclic: Bools = np.all(end_quality[self.tapped] >= 0, axis=0)
        return PlanValues(total, by_model.mean(axis=0), by_model.min(axis=0), acyclic)

    def structure(self, chosen: Ints) -> PlanStructure:
        """Return what is live in complete plans, (segments, n), and what depends on what."""
        has_share = chosen != NO_SHARE
        replaced = np.where(
            has_share, self.recipient_position[chosen], self.replaced_without_share[:, None]
        )
        donor_segment = np.where(
            has_share, self.donor_segment[chosen], np.arange(len(chosen))[:, None]
        )
        from_prefix = has_share & (
            self.donor_position[chosen] < np.take_along_axis(replaced, donor_segment, 0)
        )
        depends_on = np.where(
            has_share & ~from_prefix, donor_segment, self.previous[donor_segment]
        )
        retained = self._retained(chosen, donor_segment, from_prefix)
        return PlanStructure(replaced, retained, donor_segment, from_prefix, depends_on)

    def _end_quality(self, share_quality: Floats, depends_on: Ints) -> Floats:
        """Return the quality kept at each segment's end, (segments, n).

        It is -1 where the end depends on itself.

        `depends_on` is the segment whose end each segment's end depends on, or INPUT.
        """
        quality = np.full((len(share_quality) + 1, share_quality.shape[1]), -1.0)
        quality[-1] = 1.0  # the input
        for _ in range(len(share_quality)):
            arriving = np.take_along_axis(quality, depends_on, 0)
            quality[:-1] = np.where(arriving >= 0, share_quality * arriving, -1.0)
        return quality[:-1]

    def _end_noise(self, chosen: Ints, from_prefix: Bools, depends_on: Ints) -> Floats:
        """Return the noise at each segment's end, (segments, n), if it depends not on itself."""
        noise = np.zeros((len(chosen) + 1, chosen.shape[1]))
        if not self.is_noisy:
            return noise[:-1]
        through_share = np.where(from_prefix, self.prefix_noise[chosen], self.suffix_noise[chosen])
        added = np.where(chosen != NO_SHARE, through_share, self.own_noise[:, None])
        for _ in range(len(chosen)):
            noise[:-1] = added + np.take_along_axis(noise, depends_on, 0)
        return noise[:-1]

    def _retained(self, chosen: Ints, donor_segment: Ints, from_prefix: Bools) -> Ints:
        """Return the position of each segment's last prefix donor, (segments, n); else 0."""
        retained, columns = np.zeros_like(chosen), np.arange(chosen.shape[1])
        positions = np.where(from_prefix, self.donor_position[chosen], 0)
        for donor, position in zip(donor_segment, positions, strict=True):
            retained[donor, columns] = np.maximum(retained[donor, columns], position)
        return retained

    def _adapter_bytes(self, chosen: Ints, structure: PlanStructure) -> Ints:
        """Return the bytes of all adapters of each plan, (n,)."""
        live, donors = self.live_stages(structure), self.donors(chosen)
        total = np.zeros(chosen.shape[1], np.intp)
        for shares in chosen:
            total += self.adapter_bytes.bytes(shares, live, donors)
        return total

    def live_stages(self, structure: PlanStructure) -> Bools:
        """Return which stages are live, (stages + 1, n); the last row stands for no stage."""
        live = np.zeros((len(self.positions) + 1, structure.replaced.shape[1]), np.bool_)
        for number, (segment, position) in enumerate(self.positions.values()):
            live[number] = (position > structure.replaced[segment]) | (
                position <= structure.retained[segment]
            )
        return live

    def donors(self, chosen: Ints) -> Bools:
        """Return which stages are donors, (stages + 1, n); the last row stands for no stage."""
        donors = np.zeros((len(self.positions) + 1, chosen.shape[1]), np.bool_)
        columns = np.arange(chosen.shape[1])
        for shares in chosen:
            donors[self.adapter_bytes.donor[shares], columns] = True
        donors[-1] = False
        return donors


def _shares_of(problem: Problem) -> Iterator[Share]:
    for slot in problem.space.slots:
        yield from (share for share in slot.choices.values() if share is not None)
