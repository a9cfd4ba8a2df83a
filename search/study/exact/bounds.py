"""What the best completion of a half decided plan can come to: fewest bytes, highest quality."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from search.study.exact.vectorized import NOTHING, Bools, Floats, Ints, PlanTable
from search.study.objectives import Predicted
from search.study.pareto import front
from search.study.problem import Limits

ROUNDING = 1e-12
"""Qualities that differ by less are taken for equal."""
FAINT = 1e-15
"""A share is taken to keep at least so much, so that 0 means: depends on itself."""
TAIL = 48
"""A relaxed front of undecided segments is drawn with so many points."""


class Incumbents:
    """The best feasible plans found so far."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.plans: list[Predicted] = []
        self._bytes = np.zeros(0, np.intp)
        self._quality = np.array([-np.inf])

    def add(self, found: Predicted) -> None:
        """Keep the plan if it is feasible, and drop what it beats."""
        if not self.limits.allow(found.bytes, found.worst):
            return
        self.plans.insert(bisect_right(self.plans, found.bytes, key=lambda p: p.bytes), found)
        points = [(plan.bytes, plan.proxy) for plan in self.plans]
        self.plans = [self.plans[i] for i in front(points)]
        self._bytes = np.array([plan.bytes for plan in self.plans], np.intp)
        self._quality = np.array([-np.inf, *(plan.proxy for plan in self.plans)])

    def beaten(self, held: Ints, quality: Floats) -> Bools:
        """Where a plan is known that holds no more bytes and keeps no less, or none is allowed."""
        best: Floats = self._quality[np.searchsorted(self._bytes, held, side="right")]
        return (best >= quality - ROUNDING) | (held > self.limits.bytes)


@dataclass(frozen=True)
class Rows:
    """Half decided plans, as columns: each array is (segments, n), and OPEN where undecided."""

    cuts: Ints
    extents: Ints
    picks: Ints

    def __len__(self) -> int:
        return int(self.cuts.shape[1])

    def take(self, columns: Ints | Bools | slice) -> Rows:
        return Rows(self.cuts[:, columns], self.extents[:, columns], self.picks[:, columns])

    def join(self, other: Rows) -> Rows:
        pairs = (
            (self.cuts, other.cuts),
            (self.extents, other.extents),
            (self.picks, other.picks),
        )
        return Rows(*(np.concatenate(pair, axis=1) for pair in pairs))


class Edges:
    """What the best share from one segment's end to another keeps, under any cut and extent.

    A segment's end may depend on 2s edges, s being the number of segments: via each segment, and
    under each (or, where nothing lands, on the segment below, by the edge under itself).
    """

    def __init__(self, walks: PlanTable) -> None:
        self.walks = walks
        self.count = len(walks.segments)
        self.open = max(len(segment.stages) for segment in walks.segments) + 2
        """The code for a cut, an extent or a pick that is not decided."""
        shape = (self.count, self.open + 1, 2 * self.count, self.open + 1)
        self.kept = np.zeros(shape)
        """By segment, its cut, edge, and what bounds the donors: cut or extent of the source."""
        self.share = np.full(shape, NOTHING)
        """The share that keeps so much."""
        self.ways = np.zeros(shape, np.intp)
        """How many shares make up the edge; 1 where nothing lands."""
        self.parents = np.concatenate([np.arange(self.count), walks.below])
        for segment in range(self.count):
            for cut in (0, self.open):
                self.kept[segment, cut, self.count + segment] = 1.0
                self.ways[segment, cut, self.count + segment] = 1
        useful = {*walks.useful()}
        for number in np.argsort(walks.kept[:-1]).tolist():
            self._enter(number, useful)

    def _enter(self, number: int, useful: set[int]) -> None:
        """Shares come by rising quality, so that the last one entered is the best."""
        walks = self.walks
        segment, cut, source, height = (
            int(of[number]) for of in (walks.lands, walks.cut, walks.source, walks.height)
        )
        via, under = slice(0, height + 1), slice(height, None)
        for at in (cut, self.open):
            for edge, donors in ((source, via), (self.count + source, under)):
                self.ways[segment, at, edge, donors] += 1
                if number in useful:
                    self.kept[segment, at, edge, donors] = max(walks.kept[number], FAINT)
                    self.share[segment, at, edge, donors] = number

    def places(self, rows: Rows) -> Ints:
        """(segments, edges, n): where in the flat tables each row's edges stand."""
        via = np.where(rows.cuts == self.open, 0, rows.cuts)
        # An undecided extent is taken to hold all donors under the cut, at no cost.
        most = np.where(rows.cuts == self.open, self.open, np.maximum(rows.cuts, 1) - 1)
        under = np.where(rows.extents == self.open, most, rows.extents)
        donors = np.concatenate([via, under])
        segments, edges = np.ogrid[: self.count, : 2 * self.count]
        start = (segments * (self.open + 1))[:, :, None] + rows.cuts[:, None, :]
        found: Ints = (start * (2 * self.count) + edges[:, :, None]) * (self.open + 1) + donors
        return found

    def of(self, rows: Rows) -> Floats:
        """(segments, edges, n): the most that each edge keeps, 0 where there is none."""
        kept: Floats = self.kept.take(self.places(rows))
        columns = np.arange(len(rows))
        for segment, picks in enumerate(rows.picks):
            chosen = columns[picks >= 0]
            if len(chosen):
                picked = picks[chosen]
                source = self.walks.source[picked]
                under = self.walks.height[picked] < rows.cuts[source, chosen]
                kept[segment][:, chosen] = 0.0
                kept[segment, source + self.count * under, chosen] = np.maximum(
                    self.walks.kept[picked], FAINT
                )
        return kept

    def ends(self, kept: Floats) -> Floats:
        """(segments + 1, n): the most that each segment's end can keep; last the input's 1.

        The best chain of edges, found by relaxation; 0 where none comes from the input.
        """
        ends = np.zeros((self.count + 1, kept.shape[2]))
        ends[-1] = 1.0
        for _ in range(self.count):
            before = ends.copy()
            for segment in range(self.count):
                ends[segment] = (kept[segment] * ends[self.parents]).max(axis=0)
            if np.array_equal(before, ends):
                break
        return ends

    def best(self, rows: Rows) -> Ints:
        """(segments, n): the picks of the highest quality, whatever their bytes."""
        kept, share = self.of(rows), self.share.take(self.places(rows))
        arriving = kept * self.ends(kept)[self.parents]
        edge = arriving.argmax(axis=1)
        picks: Ints = np.take_along_axis(share, edge[:, None], 1)[:, 0]
        return np.where(rows.picks >= 0, rows.picks, picks)


@dataclass(frozen=True)
class Tail:
    """A front that no choice in the segments whose cut is undecided can beat."""

    bytes: Ints
    quality: Floats
    decided: Floats
    """(segments,): weight in the plan's quality of each end outside these segments."""


class Bounds:
    """Which half decided plans may still lead to a better one than is known."""

    def __init__(self, walks: PlanTable, known: Incumbents) -> None:
        self.walks, self.known = walks, known
        self.edges = Edges(walks)
        self.open = self.edges.open
        self.weights = walks.weights.mean(axis=0)
        self.least = self._least_adapters()

    def _least_adapters(self) -> Ints:
        """(segments, cuts): fewest bytes of an adapter that lands there."""
        least = np.full((len(self.walks.segments), self.open + 1), np.iinfo(np.int32).max, np.intp)
        for number in self.walks.useful():
            at = (self.walks.lands[number], self.walks.cut[number])
            least[at] = min(least[at], self.walks.adapters.least[number])
        least[:, [0, self.open]] = 0
        for segment, uncut in enumerate(self.walks.uncut):
            least[segment, uncut] = 0
        return least

    def tail(self, undecided: list[int]) -> Tail:
        """What these segments can come to, each for itself and at its best."""
        points = [(0, 0.0)]
        for segment in undecided:
            sums = [(a + b, p + q) for a, p in points for b, q in self._alone(segment)]
            points = _drawn([sums[i] for i in front(sums)])
        decided = self.weights.copy()
        decided[undecided] = 0.0
        held, quality = zip(*points, strict=True)
        return Tail(np.array(held, np.intp), np.array(quality), decided)

    def _alone(self, segment: int) -> list[tuple[int, float]]:
        cuts = {0, *(int(self.walks.cut[k]) for k in self.walks.landing(segment))}
        held, kept = self.walks.held.table[segment], self.edges.kept[segment]
        return [
            (int(held[cut, 0] + self.least[segment, cut]), self.weights[segment] * kept[cut].max())
            for cut in cuts
        ]

    def hopeful(self, rows: Rows, tail: Tail) -> Bools:
        """(n,): where some completion may be feasible and beat what is known."""
        ends = self.edges.ends(self.edges.of(rows))[:-1]
        worst = (self.walks.weights @ ends).min(axis=0)
        possible = (ends[self.walks.tapped] > 0).all(axis=0)
        possible &= self.near_quality(worst)
        held, quality = self._held(rows), tail.decided @ ends
        hope = np.zeros(len(rows), np.bool_)
        for more, better in zip(tail.bytes, tail.quality, strict=True):
            hope |= ~self.known.beaten(held + more, quality + better)
        hope &= possible
        return hope

    def near_quality(self, worst: Floats) -> Bools:
        """Where every model keeps enough of its quality, but for rounding."""
        near: Bools = worst >= self.known.limits.quality - ROUNDING
        return near

    def _held(self, rows: Rows) -> Ints:
        extents = np.where(rows.extents == self.open, 0, rows.extents)
        segments = np.arange(len(rows.cuts))[:, None]
        adapters = np.where(
            rows.picks >= 0,
            self.walks.adapters.least[rows.picks],
            self.least[segments, rows.cuts],
        )
        held: Ints = self.walks.held.bytes(rows.cuts, extents) + adapters.sum(axis=0)
        return held


def _drawn(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """A front of at most TAIL points that the given front, by rising bytes, does not beat."""
    if len(points) <= TAIL:
        return points
    edges = [k * len(points) // TAIL for k in range(TAIL + 1)]
    return [(points[a][0], points[b - 1][1]) for a, b in pairwise(edges)]
