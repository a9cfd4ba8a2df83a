"""The true front of a problem, by branch and bound: the yardstick for a study.

Half decided plans are decided further in three rounds. First the cuts: which stage of each
segment some share replaces. Then the extents: how far under its cut each segment lives on for
others. Now the bytes of all stages are known. Last the picks: which share lands at each cut. What
is half decided is bounded on both sides at every step, and given up where it cannot lead to a
feasible plan that beats the known ones. The best picks by quality alone are a closed form (best
chains, as in shortest paths), so good plans are known before the search begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from search.study.exact.bounds import Bounds, Edges, Incumbents, Rows, Tail
from search.study.exact.vectorized import NOTHING, Bools, Floats, Ints, PlanTable
from search.study.objectives import PlanEvaluator, Predicted
from search.study.problem import Problem
from spaces.errors import MergeSearchError
from spaces.liveness import canonical
from spaces.plan import SharePlan

LOOKED_AT_MOST = 50_000_000
"""A search gives up after so many half or fully decided plans."""
COUNTED_AT_MOST = 10_000_000
"""Plans are counted by their cuts, of which there may be so many."""
BATCH = 20_000
"""Plans are counted for so many combinations of cuts at a time."""
CELLS = 4_000_000
"""Entries of the largest array of one step: 32 MB."""


class TooLarge(MergeSearchError):
    """The space holds more than can be looked through."""


@dataclass(frozen=True)
class Exact:
    """The front, and what it took to find it."""

    front: tuple[Predicted, ...]
    """By rising bytes. Whatever the space holds that is feasible, some plan here holds no more
    bytes and keeps no less, but for rounding."""
    combinations: int
    """Size of the space as a study sees it."""
    looked_at: int
    """How many half or fully decided plans were bounded or valued."""


def exact_front(
    problem: Problem,
    progress: Callable[[int], None] = lambda looked_at: None,
    seeds: Sequence[SharePlan] = (),
) -> Exact:
    """The feasible plans that no other beats: bytes down, proxy quality up.

    `seeds` are plans that are known to be good, and make the search faster; `progress` hears of
    every lot of half decided plans how many it was.

    Raises:
        TooLarge: the search has looked at LOOKED_AT_MOST half decided plans.
    """
    search = _Search(problem, progress)
    walks = search.walks
    search.offer(np.array([walks.column(plan) for plan in (SharePlan(), *seeds)]).T)
    cuts = [step for step in search.steps if step.decides == "cuts"]
    search.run(cuts)  # the best picks of every cut, so that there is much to beat
    search.run(search.steps)
    return Exact(tuple(search.known.plans), problem.encoding.size, search.looked_at)


@dataclass(frozen=True)
class _Step:
    """One segment's cut, extent or pick is decided."""

    decides: Literal["cuts", "extents", "picks"]
    segment: int
    options: Ints
    """(cuts, most): what there is to choose from, by the segment's cut."""
    counts: Ints
    """(cuts,): how many of these there are."""
    tail: Tail
    """Of the segments whose cut is undecided after this step."""


class _Search:
    """Half decided plans on their way through the steps, depth first."""

    def __init__(self, problem: Problem, progress: Callable[[int], None]) -> None:
        self.progress = progress
        self.valuer = PlanEvaluator(problem)
        self.walks = PlanTable(problem)
        self.known = Incumbents(problem.limits)
        self.bounds = Bounds(self.walks, self.known)
        self.steps = _steps(self.bounds)
        self.most = max(256, CELLS // (2 * len(self.walks.segments) ** 2))
        """So many half decided plans are bounded together."""
        self.looked_at = 0

    def run(self, steps: Sequence[_Step]) -> None:
        """Decide everything that the steps decide, wherever it may pay."""
        start = _undecided(self.bounds)
        waiting = [start, *(start.take(slice(0, 0)) for _ in steps)]
        while any(len(rows) for rows in waiting[:-1]):
            at = self._next(waiting[:-1])
            step, rows = steps[at], waiting[at]
            lot = max(1, self.most // int(step.counts.max()))
            waiting[at] = rows.take(slice(lot, None))
            rows = self._hopeful(self._decided(rows.take(slice(0, lot)), step), step)
            if at + 1 == len(steps) or steps[at + 1].decides != step.decides:
                self.offer(self.bounds.edges.best(rows))
            if at + 1 < len(steps):
                waiting[at + 1] = waiting[at + 1].join(rows)

    def _next(self, waiting: Sequence[Rows]) -> int:
        """The deepest lot that fills a batch; if there is none, the shallowest."""
        full = [at for at, rows in enumerate(waiting) if len(rows) >= self.most]
        return full[-1] if full else next(at for at, rows in enumerate(waiting) if len(rows))

    def _decided(self, rows: Rows, step: _Step) -> Rows:
        """Every row with every option of the step, each with its own columns."""
        cuts = rows.cuts[step.segment]
        counts = step.counts[cuts]
        columns = np.repeat(np.arange(len(rows)), counts)
        nth = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
        grown = rows.take(columns)
        getattr(grown, step.decides)[step.segment] = step.options[cuts[columns], nth]
        return grown.take(self._taken(grown, step)) if step.decides == "picks" else grown

    def _taken(self, rows: Rows, step: _Step) -> Bools:
        """Where the pick's donor lives: above the cut of its segment, or within the extent."""
        picks, columns = rows.picks[step.segment], np.arange(len(rows))
        source, height = self.walks.source[picks], self.walks.height[picks]
        via = height >= rows.cuts[source, columns]
        taken: Bools = (picks == NOTHING) | via | (height <= rows.extents[source, columns])
        return taken

    def _hopeful(self, rows: Rows, step: _Step) -> Rows:
        self._count(len(rows))
        return rows.take(self.bounds.hopeful(rows, step.tail)) if len(rows) else rows

    def offer(self, picks: Ints) -> None:
        """Value complete plans, (segments, n), and keep the best. Ties that rounding could turn
        are settled by the cost model and the proxy."""
        if not picks.shape[1]:
            return
        self._count(picks.shape[1])
        values = self.walks.value(picks)
        left = values.acyclic & self.bounds.near_quality(values.worst)
        while (left := left & ~self.known.beaten(values.bytes, values.quality)).any():
            for at in _leading(values.bytes, values.quality, np.flatnonzero(left)):
                left[at] = False
                plan = canonical(self.walks.plan(picks[:, at]), self.valuer.problem.layouts)
                self.known.add(self.valuer.predict(plan))

    def _count(self, more: int) -> None:
        self.looked_at += more
        self.progress(more)
        if self.looked_at > LOOKED_AT_MOST:
            raise TooLarge(
                f"the true front is out of reach: {LOOKED_AT_MOST:,} half decided plans were"
                " looked at and more remain; fewer stages, models or adapters, or tighter"
                " limits, make the space smaller"
            )


def count_plans(problem: Problem) -> int:
    """How many different canonical plans the space holds.

    Every chosen share is live, so these are the choices without a cycle. Under given cuts the
    segments' ends and the input are the nodes of a graph and the shares its edges; a plan is a
    tree in it that leads all ends to the input. The number of these is the determinant of the
    graph's Laplacian without the input's row and column (Tutte 1948, the matrix-tree theorem for
    directed graphs).

    Raises:
        TooLarge: there are more than COUNTED_AT_MOST combinations of cuts.
    """
    walks = PlanTable(problem)
    edges = Edges(walks)
    cuts = [_cuts(walks, segment) for segment in range(len(walks.segments))]
    combinations = prod(len(one) for one in cuts)
    if combinations > COUNTED_AT_MOST:
        raise TooLarge(
            f"the plans cannot be counted: their shares can land in {combinations:,} combinations"
            f" of stages, and at most {COUNTED_AT_MOST:,} are gone through"
        )
    total = 0
    for start in range(0, combinations, BATCH):
        nth = np.arange(start, min(start + BATCH, combinations))
        places = np.unravel_index(nth, [len(one) for one in cuts])
        chosen = np.stack([one[place] for one, place in zip(cuts, places, strict=True)])
        total += sum(_determinants(_laplacians(edges, chosen)))
    return total


def _steps(bounds: Bounds) -> list[_Step]:
    """Large segments first; where nothing can be chosen there is no step."""
    walks = bounds.walks
    order = np.argsort(-walks.held.table[:, 0, 0], kind="stable").tolist()
    landed = [segment for segment in order if len(_cuts(walks, segment)) > 1]
    useful = walks.useful()
    steps = []
    for k, segment in enumerate(landed):
        options = {bounds.open: _cuts(walks, segment).tolist()}
        steps.append(_step("cuts", segment, options, bounds, landed[k + 1 :]))
    for segment in order:
        heights = sorted({int(walks.height[k]) for k in useful if walks.source[k] == segment})
        cuts = {*_cuts(walks, segment).tolist()}
        options = {cut: [0, *(height for height in heights if height < cut)] for cut in cuts}
        steps.append(_step("extents", segment, options, bounds, []))
    for segment in landed:
        numbers = [k for k in useful if walks.lands[k] == segment]
        cuts = {int(walks.cut[k]) for k in numbers}
        options = {cut: [k for k in numbers if walks.cut[k] == cut] for cut in cuts}
        steps.append(_step("picks", segment, {0: [NOTHING], **options}, bounds, []))
    return [step for step in steps if step.decides != "extents" or step.counts.max() > 1]


def _step(
    decides: Literal["cuts", "extents", "picks"],
    segment: int,
    options: dict[int, list[int]],
    bounds: Bounds,
    undecided: list[int],
) -> _Step:
    counts = np.zeros(bounds.open + 1, np.intp)
    table = np.zeros((bounds.open + 1, max(len(one) for one in options.values())), np.intp)
    for cut, chosen in options.items():
        counts[cut] = len(chosen)
        table[cut, : len(chosen)] = chosen
    return _Step(decides, segment, table, counts, bounds.tail(undecided))


def _cuts(walks: PlanTable, segment: int) -> Ints:
    """At which heights a share may land in a segment, after what holds if none does."""
    found = {int(walks.cut[k]) for k in walks.landing(segment)}
    return np.array([int(walks.uncut[segment]), *sorted(found)], np.intp)


def _undecided(bounds: Bounds) -> Rows:
    """One plan, of which nothing is decided but what allows of no choice."""
    walks = bounds.walks
    fixed = [len(_cuts(walks, segment)) == 1 for segment in range(len(walks.segments))]
    cuts = np.where(fixed, walks.uncut, bounds.open)
    return Rows(
        cuts[:, None],
        np.full_like(cuts, bounds.open)[:, None],
        np.full_like(cuts, NOTHING)[:, None],
    )


def _leading(held: Ints, quality: Floats, among: Ints) -> Ints:
    """Those of the plans that no other of them beats."""
    order = among[np.lexsort((-quality[among], held[among]))]
    best = np.maximum.accumulate(quality[order])
    leads: Ints = order[np.append(True, best[1:] > best[:-1])]
    return leads


def _laplacians(edges: Edges, cuts: Ints) -> NDArray[Any]:
    """(n, s, s) over the s segments that end in a tap, from (segments, n) cuts."""
    free = np.full_like(cuts, edges.open)
    ways = edges.ways.take(edges.places(Rows(cuts, free, free)))
    tapped = [k for k, segment in enumerate(edges.walks.segments) if segment.taps]
    found = np.zeros((cuts.shape[1], len(tapped), len(tapped)), np.int64)
    for row, segment in enumerate(tapped):
        found[:, row, row] = ways[segment].sum(axis=0)
        for edge, parent in enumerate(edges.parents.tolist()):
            if parent in tapped:
                found[:, row, tapped.index(parent)] -= ways[segment, edge]
    return found


def _determinants(matrices: NDArray[Any]) -> list[int]:
    """Exact, of Laplacians (n, s, s): Bareiss's elimination, in which all divisions come out even.

    A leading minor is 0 only if some segments can but lead to each other; then so is the whole.
    """
    values = matrices.astype(object)
    before = np.ones(len(values), object)
    for k in range(values.shape[1] - 1):
        pivot = values[:, k, k]
        for row in range(k + 1, values.shape[1]):
            for column in range(k + 1, values.shape[1]):
                cross = values[:, row, k] * values[:, k, column]
                values[:, row, column] = (values[:, row, column] * pivot - cross) // before
        before = np.where(pivot == 0, 1, pivot)
    return [int(value) for value in values[:, -1, -1]]
