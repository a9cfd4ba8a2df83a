"""Bounds on the completions of a partial plan: fewest bytes, highest quality."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from search.study.exact.partial_plans import PartialPlans
from search.study.exact.plan_table import PlanTable
from search.study.exact.segment_graph import SegmentGraph
from search.study.exact.segments import Bools, Floats, Ints
from search.study.objectives import PredictedPlan
from search.study.pareto import front_indices
from search.study.problem import Limits

ROUNDING = 1e-12
"""Qualities that differ by less count as equal."""
RELAXED_POINTS = 48
"""A relaxed front has at most this many points."""


class Incumbents:
    """The feasible plans found so far that no other one dominates."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.plans: list[PredictedPlan] = []
        """By rising bytes."""
        self._bytes = np.zeros(0, np.intp)
        self._quality = np.array([-np.inf])
        """(plans + 1,): the best quality within the bytes of the first 0, 1, 2, ... plans."""

    def add(self, plan: PredictedPlan) -> None:
        """Add the plan if it is feasible, and drop the plans that it dominates."""
        if not self.limits.allow(plan.bytes, plan.worst):
            return
        self.plans.insert(bisect_right(self.plans, plan.bytes, key=lambda p: p.bytes), plan)
        points = [(p.bytes, p.proxy) for p in self.plans]
        self.plans = [self.plans[i] for i in front_indices(points)]
        self._bytes = np.array([p.bytes for p in self.plans], np.intp)
        self._quality = np.array([-np.inf, *(p.proxy for p in self.plans)])

    def dominate(self, total_bytes: Ints, quality: Floats) -> Bools:
        """Return whether an incumbent is as good in both, or the bytes exceed the limit, (n,)."""
        best: Floats = self._quality[np.searchsorted(self._bytes, total_bytes, side="right")]
        return (best >= quality - ROUNDING) | (total_bytes > self.limits.bytes)


@dataclass(frozen=True)
class RelaxedFront:
    """A front that the undecided segments cannot dominate, however they are decided.

    Each undecided segment is relaxed: it takes the best of its own options, as if it depended on
    no other segment.
    """

    bytes: Ints
    """(points,): bytes on top of those of the decided segments, rising."""
    quality: Floats
    """(points,): contribution of the undecided segments to the plan's quality."""
    decided_weights: Floats
    """(segments,): weight of each segment's end in the plan's quality; 0 if undecided."""


class Bounds:
    """Decides which partial plans may still lead to a plan that improves on the incumbents."""

    def __init__(self, table: PlanTable, incumbents: Incumbents) -> None:
        self.table, self.incumbents = table, incumbents
        self.graph = SegmentGraph(table)
        self.weights = table.weights.mean(axis=0)
        """(segments,): weight of each segment's end in the plan's quality."""
        self.minimum_adapter_bytes = self._minimum_adapter_bytes()
        start = PartialPlans.undecided(table, self.graph.undecided)
        self.highest = table.quality_after_noise(
            np.ones((len(table.segments), 1)), self.graph.end_noise(start)
        )[:, 0]
        """(segments,): what a tap at each segment's end keeps at the lowest noise of any plan."""

    def _minimum_adapter_bytes(self) -> Ints:
        """Return the fewest bytes of an adapter, by its recipient, (segments, replaced)."""
        shape = (len(self.table.segments), self.graph.undecided + 1)
        minimum = np.full(shape, np.iinfo(np.int32).max, np.intp)
        for share in self.table.undominated_shares():
            at = (self.table.recipient_segment[share], self.table.recipient_position[share])
            minimum[at] = min(minimum[at], self.table.adapter_bytes.minimum[share])
        minimum[:, [0, self.graph.undecided]] = 0
        for segment, replaced in enumerate(self.table.replaced_without_share):
            minimum[segment, replaced] = 0
        return minimum

    def relaxed_front(self, undecided: list[int]) -> RelaxedFront:
        """Return the relaxed front of the segments whose `replaced` is undecided."""
        points = [(0, 0.0)]
        for segment in undecided:
            sums = [
                (bytes_so_far + more_bytes, quality_so_far + more_quality)
                for bytes_so_far, quality_so_far in points
                for more_bytes, more_quality in self._relaxed_options(segment)
            ]
            points = _thinned([sums[i] for i in front_indices(sums)])
        decided_weights = self.weights.copy()
        decided_weights[undecided] = 0.0
        total_bytes, quality = zip(*points, strict=True)
        return RelaxedFront(np.array(total_bytes, np.intp), np.array(quality), decided_weights)

    def _relaxed_options(self, segment: int) -> list[tuple[int, float]]:
        """Return the fewest bytes and the highest quality of each `replaced` of a segment."""
        positions = self.table.recipient_position[self.table.shares_into(segment)]
        stage_bytes, quality = self.table.stage_bytes.table[segment], self.graph.quality[segment]
        return [
            (
                int(stage_bytes[replaced, 0] + self.minimum_adapter_bytes[segment, replaced]),
                self.weights[segment] * self.highest[segment] * quality[replaced].max(),
            )
            for replaced in {0, *positions.tolist()}
        ]

    def may_improve(self, partial: PartialPlans, relaxed: RelaxedFront) -> Bools:
        """Return whether a completion may be feasible and not dominated by an incumbent, (n,)."""
        ends = self.graph.end_quality(self.graph.edge_quality(partial))[:-1]
        feasible = (ends[self.table.tapped] > 0).all(axis=0)
        ends = self.table.quality_after_noise(ends, self.graph.end_noise(partial))
        feasible &= self.near_quality_limit((self.table.weights @ ends).min(axis=0))
        fewest_bytes, best_quality = self._fewest_bytes(partial), relaxed.decided_weights @ ends
        undominated = np.zeros(len(partial), np.bool_)
        for more_bytes, more_quality in zip(relaxed.bytes, relaxed.quality, strict=True):
            undominated |= ~self.incumbents.dominate(
                fewest_bytes + more_bytes, best_quality + more_quality
            )
        undominated &= feasible
        return undominated

    def near_quality_limit(self, worst: Floats) -> Bools:
        """Return whether every model keeps the required quality, but for rounding, (n,)."""
        near: Bools = worst >= self.incumbents.limits.quality - ROUNDING
        return near

    def _fewest_bytes(self, partial: PartialPlans) -> Ints:
        """Return the bytes of all decided parts, with the cheapest undecided adapters, (n,)."""
        retained = np.where(partial.retained == self.graph.undecided, 0, partial.retained)
        segments = np.arange(len(partial.replaced))[:, None]
        adapters = np.where(
            partial.shares >= 0,
            self.table.adapter_bytes.minimum[partial.shares],
            self.minimum_adapter_bytes[segments, partial.replaced],
        )
        stages = self.table.stage_bytes.bytes(partial.replaced, retained)
        total: Ints = stages + adapters.sum(axis=0)
        return total


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most RELAXED_POINTS points that no point of the front, by rising bytes, dominates.

    Each stands for a run of neighbours: the fewest bytes and the best quality among them.
    """
    if len(points) <= RELAXED_POINTS:
        return points
    edges = [k * len(points) // RELAXED_POINTS for k in range(RELAXED_POINTS + 1)]
    return [(points[first][0], points[stop - 1][1]) for first, stop in pairwise(edges)]
