"""Bytes and predicted quality of very many plans of one space at once, in numpy.

A head's taps cut its backbone into segments, and a segment has at most one share. Three facts,
which follow from that, take the place of walking back from the taps:

- Every chosen share is live: the tap at its segment's end depends on it.
- A segment's stages above the recipient are live, and of those up to the recipient the first
  few: up to the last one that some share, wherever it lands, takes as its donor.
- What a tap depends on is a chain of segments. A share whose donor is the recipient of the
  donor's segment, or above it, goes on *via* that segment's share; one whose donor is below goes
  *under* it, to the tap of the segment below, or to the input.

A stage's height is its place within its segment, from 1. The cut of a segment is the height of
its recipient, 0 if nothing lands there; its extent is the height of the last donor under the cut,
0 if there is none. So a stage of height h is live if h > cut or h <= extent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.study.problem import Problem
from search.study.proxy import Proxy
from spaces.consumers import HEAD
from spaces.cost import CostModel
from spaces.liveness import Layouts, Liveness
from spaces.model_facts import ModelFacts
from spaces.plan import Ref, Share, SharePlan

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NOTHING = -1
"""In place of the number of a share: nothing lands in this segment."""


@dataclass(frozen=True)
class Segment:
    """The stages after one tap up to the next, that next one included."""

    model: str
    stages: tuple[str, ...]
    below: int
    """Number of the segment below; -1 is the input."""
    taps: int
    """How often the head reads the segment's end: 0 for stages past the last tap."""

    @property
    def uncut(self) -> int:
        """The cut if no share lands here: stages past the last tap live for donors alone."""
        return 0 if self.taps else len(self.stages) + 1


@dataclass(frozen=True)
class Values:
    """What complete plans come to; all arrays (n,)."""

    bytes: Ints
    quality: Floats
    """Right but for rounding: the proxy itself has the last word."""
    worst: Floats
    acyclic: Bools
    """Where this is false, some representation would depend on itself: there is no such plan."""


class PlanTable:
    """The shares of a problem, numbered, and all that a plan's value is looked up in.

    Plans are the columns of an array (segments, n): number of the share that lands there, or
    NOTHING.
    """

    def __init__(self, problem: Problem) -> None:
        costs, proxy = CostModel(problem.facts), Proxy(problem.kept, problem.layouts)
        self.segments = tuple(_segments(problem.layouts))
        self.shares = tuple(_shares(problem))
        self.places = _places(self.segments)
        lands = [self.places[share.recipient] for share in self.shares]
        comes = [self.places[share.donor] for share in self.shares]
        # The last entry of each answers for NOTHING.
        self.lands = np.array([segment for segment, _ in lands] + [0], np.intp)
        self.cut = np.array([height for _, height in lands] + [0], np.intp)
        self.source = np.array([segment for segment, _ in comes] + [0], np.intp)
        self.height = np.array([height for _, height in comes] + [0], np.intp)
        self.kept = np.array([proxy.kept[share] for share in self.shares] + [1.0])
        self.uncut = np.array([segment.uncut for segment in self.segments], np.intp)
        self.below = np.array([segment.below for segment in self.segments], np.intp)
        self.weights = _weights(self.segments, problem.layouts)
        self.tapped = np.array([segment.taps > 0 for segment in self.segments])
        self.held = Held(self.segments, problem.facts)
        self.adapters = Adapters(self.shares, list(self.places), problem.facts, costs)

    def landing(self, segment: int) -> Ints:
        """Numbers of the shares that may land in a segment."""
        return np.flatnonzero(self.lands[:-1] == segment)

    def plan(self, picks: Ints) -> SharePlan:
        """The plan of one column."""
        return SharePlan(tuple(self.shares[pick] for pick in picks if pick != NOTHING))

    def column(self, plan: SharePlan) -> Ints:
        """The plan as a column, (segments,); shares that the space does not hold are left out."""
        picks = np.full(len(self.segments), NOTHING)
        for number, share in enumerate(self.shares):
            if share in plan.shares:
                picks[self.lands[number]] = number
        return picks

    def useful(self) -> list[int]:
        """Numbers of the shares that a best plan may need.

        Of two adapters between the same two representations one may cost no more in any context
        and keep no less.
        """
        alike: dict[tuple[Ref, Ref], list[int]] = {}
        for number, share in enumerate(self.shares):
            rivals = alike.setdefault((share.recipient, share.donor), [])
            if not any(self._serves(other, number) for other in rivals):
                rivals[:] = [r for r in rivals if not self._serves(number, r)] + [number]
        return sorted(number for numbers in alike.values() for number in numbers)

    def _serves(self, one: int, other: int) -> bool:
        """Whether one share is in every context at least as good as another in its place."""
        table = self.adapters.table
        return bool(self.kept[one] >= self.kept[other] and (table[one] <= table[other]).all())

    def value(self, picks: Ints) -> Values:
        """Value the plans that are the columns of `picks`, (segments, n)."""
        taken = picks != NOTHING
        cuts = np.where(taken, self.cut[picks], self.uncut[:, None])
        under = taken & (self.height[picks] < np.take_along_axis(cuts, self.source[picks], 0))
        sources = np.where(taken, self.source[picks], np.arange(len(picks))[:, None])
        parents = np.where(taken & ~under, sources, self.below[sources])
        upstream = self._upstream(self.kept[picks], parents)
        by_model = self.weights @ upstream
        extents = self._extents(picks, sources, under)
        held = self.held.bytes(cuts, extents) + self._adapter_bytes(picks, cuts, extents)
        acyclic: Bools = np.all(upstream[self.tapped] >= 0, axis=0)
        return Values(held, by_model.mean(axis=0), by_model.min(axis=0), acyclic)

    def _upstream(self, kept: Floats, parents: Ints) -> Floats:
        """(segments, n): what each segment's end keeps; -1 where it depends on itself."""
        quality = np.full((len(kept) + 1, kept.shape[1]), -1.0)
        quality[-1] = 1.0  # the input
        for _ in range(len(kept)):
            arriving = np.take_along_axis(quality, parents, 0)
            quality[:-1] = np.where(arriving >= 0, kept * arriving, -1.0)
        return quality[:-1]

    def _extents(self, picks: Ints, sources: Ints, under: Bools) -> Ints:
        extents, columns = np.zeros_like(picks), np.arange(picks.shape[1])
        heights = np.where(under, self.height[picks], 0)
        for source, height in zip(sources, heights, strict=True):
            extents[source, columns] = np.maximum(extents[source, columns], height)
        return extents

    def _adapter_bytes(self, picks: Ints, cuts: Ints, extents: Ints) -> Ints:
        if not self.adapters.any:
            return np.zeros(picks.shape[1], np.intp)
        live = np.zeros((len(self.places) + 1, picks.shape[1]), np.bool_)  # the last: no stage
        donors = np.zeros_like(live)
        for number, (segment, height) in enumerate(self.places.values()):
            live[number] = (height > cuts[segment]) | (height <= extents[segment])
        columns = np.arange(picks.shape[1])
        for row in picks:
            donors[self.adapters.donor[row], columns] = True
        donors[-1] = False
        total = np.zeros(picks.shape[1], np.intp)
        for row in picks:
            total += self.adapters.bytes(row, live, donors)
        return total


class Held:
    """Bytes of live stages and heads, each tensor once."""

    def __init__(self, segments: Sequence[Segment], facts: Mapping[str, ModelFacts]) -> None:
        owners = _owners(facts)
        self.always = 0
        self.tied: list[tuple[int, list[tuple[int, int]]]] = []
        """Bytes of a tensor that several stages hold, and their segments and heights."""
        places = _places(segments)
        most = max(len(segment.stages) for segment in segments)
        own = np.zeros((len(segments), most + 1), np.intp)  # by segment and height
        for size, stages in owners.values():
            if None in stages:
                self.always += size
            elif len(stages) == 1:
                own[places[stages[0]]] += size  # type: ignore[index]
            else:
                self.tied.append((size, [places[ref] for ref in stages if ref is not None]))
        heights = np.arange(most + 1)
        codes = np.arange(most + 3)  # one more than any cut stands for: not decided
        live = (heights > codes[:, None, None]) | (heights <= codes[None, :, None])
        self.table = (live[None] * own[:, None, None]).sum(axis=-1)
        """(segments, cuts, extents): bytes that only one stage holds."""

    def bytes(self, cuts: Ints, extents: Ints) -> Ints:
        """(n,) from (segments, n) cuts and extents."""
        each: Ints = self.table[np.arange(len(cuts))[:, None], cuts, extents]
        total: Ints = each.sum(axis=0) + self.always
        for size, places in self.tied:
            live = [(height > cuts[s]) | (height <= extents[s]) for s, height in places]
            total += size * np.any(live, axis=0)
        return total


class Adapters:
    """Bytes of the shares' adapters.

    What an adapter costs depends on who reads its result: on how many of the stages above the
    recipient are live without a gap, and on the first representation, from the recipient on
    through stages that only hand it on, that is itself a donor. The cost model answers once for
    every share and each of these few contexts.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        stages: Sequence[Ref],
        facts: Mapping[str, ModelFacts],
        costs: CostModel,
    ) -> None:
        numbers = {ref: number for number, ref in enumerate(stages)}
        nowhere = len(numbers)
        contexts = [Contexts(share, facts, costs) for share in shares]
        longest = max((len(one.chain) for one in contexts), default=1)
        self.donor = np.array([numbers[share.donor] for share in shares] + [nowhere], np.intp)
        self.readers = np.full((longest, len(shares) + 1), nowhere, np.intp)
        """By place above the recipient: number of the stage, or of none."""
        self.results = np.full((longest, len(shares) + 1), nowhere, np.intp)
        self.table = np.zeros((len(shares) + 1, longest + 1, longest + 1), np.intp)
        """By share, live readers, and place of the first donor."""
        for k, one in enumerate(contexts):
            self.results[: len(one.chain), k] = [numbers[ref] for ref in one.chain]
            self.readers[: len(one.readers), k] = [numbers[ref] for ref in one.readers]
            for live in range(longest + 1):
                for first in range(longest + 1):
                    self.table[k, live, first] = one.bytes(live, first)
        self.least: Ints = self.table.min(axis=(1, 2))
        self.any = bool(self.table.any())

    def bytes(self, picks: Ints, live: Bools, donors: Bools) -> Ints:
        """(n,) of one segment's picks, (n,), from liveness and donorship of (stages + 1, n)."""
        columns = np.arange(len(picks))
        reached = np.logical_and.accumulate(live[self.readers[:, picks], columns], axis=0)
        donated = donors[self.results[:, picks], columns]
        first = np.where(donated.any(axis=0), donated.argmax(axis=0), len(donated))
        found: Ints = self.table[picks, reached.sum(axis=0), first]
        return found


class Contexts:
    """The contexts that one adapter's bytes depend on."""

    def __init__(self, share: Share, facts: Mapping[str, ModelFacts], costs: CostModel) -> None:
        self.share, self.costs = share, costs
        above = _above(share.recipient, facts)
        self.chain = [share.recipient]
        """The recipient, and the representations that only hand it on."""
        if share.adapter.kind != "identity":
            for ref in above:
                readers = facts[ref.model].readers[self.chain[-1].stage]
                if ref.stage not in readers or not readers[ref.stage].passes:
                    break
                self.chain.append(ref)
        self.readers = above[: len(self.chain)]
        self._known: dict[tuple[int, int], int] = {}

    def bytes(self, live: int, first: int) -> int:
        """With so many live readers, and the representation at `first` being the first donor."""
        live, first = min(live, len(self.readers)), min(first, len(self.chain))
        if (live, first) not in self._known:
            # Any share with that donor will do: only the donor is looked at.
            onward = [Share(self.share.donor, ref) for ref in self.chain[first : first + 1]]
            context = Liveness(frozenset(self.readers[:live]), frozenset((self.share, *onward)))
            self._known[live, first] = self.costs.adapter_bytes(self.share, context)
        return self._known[live, first]


def _shares(problem: Problem) -> Iterator[Share]:
    for slot in problem.encoding.slots:
        yield from (share for share in slot.choices.values() if share is not None)


def _segments(layouts: Layouts) -> Iterator[Segment]:
    number = 0
    for name, layout in layouts.items():
        start, below = 0, -1
        ends = sorted({layout.index(tap) for tap in layout.taps})
        for end in [*ends, len(layout.stages) - 1]:
            stages = layout.stages[start : end + 1]
            if not stages:
                continue
            yield Segment(name, stages, below, layout.taps.count(stages[-1]))
            start, below, number = end + 1, number, number + 1


def _places(segments: Sequence[Segment]) -> dict[Ref, tuple[int, int]]:
    """Segment and height of every stage, in the order of models and stages."""
    return {
        Ref(segment.model, stage): (number, height)
        for number, segment in enumerate(segments)
        for height, stage in enumerate(segment.stages, start=1)
    }


def _weights(segments: Sequence[Segment], layouts: Layouts) -> Floats:
    """(models, segments): the part of a model's quality that each tap carries."""
    weights = np.zeros((len(layouts), len(segments)))
    for row, layout in enumerate(layouts.values()):
        for column, segment in enumerate(segments):
            if segment.model == layout.model:
                weights[row, column] = segment.taps / len(layout.taps)
    return weights


def _owners(facts: Mapping[str, ModelFacts]) -> dict[str, tuple[int, list[Ref | None]]]:
    """Each tensor's bytes and the stages that hold it; None stands for a head."""
    owners: dict[str, tuple[int, list[Ref | None]]] = {}
    for name, fact in facts.items():
        for owner, tensors in fact.tensors.items():
            for tensor, size in tensors.items():
                held = owners.setdefault(tensor, (size, []))[1]
                held.append(None if owner == HEAD else Ref(name, owner))
    return owners


def _above(ref: Ref, facts: Mapping[str, ModelFacts]) -> list[Ref]:
    stages = facts[ref.model].layout.stages
    return [Ref(ref.model, stage) for stage in stages[stages.index(ref.stage) + 1 :]]
