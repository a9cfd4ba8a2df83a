"""All splits of a plan, or a seeded choice of them if they are too many."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from math import prod

from spaces.execution import split_between
from spaces.node import Node, Output, upstream_nodes
from spaces.plan import HEAD, Ref, SharePlan
from spaces.split.split import Split

MOST_SPLITS = 400
"""Splits of one plan, at most."""
_Place = Node | Ref
"""A representation, or the head of a model."""


def possible_splits(
    plan: SharePlan, outputs: Sequence[Output], most: int = MOST_SPLITS, seed: int = 0
) -> list[Split]:
    """Return the splits of a plan, each once, by their ends.

    `outputs` are those of the plan, by model. The device computes the first stage of every model
    whose input is read, so that the server needs no frame; at least one model is left to the
    server. If there are more than `most` choices of ends, that many of them are drawn.
    """
    forest = Forest(outputs)
    nodes = {node.ref: node for output in outputs for node in upstream_nodes(output.taps)}
    splits: dict[tuple[tuple[Node, ...], frozenset[str]], Split] = {}
    for index in _indices(forest.count, most, seed):
        ends = forest.ends(index)
        local = frozenset(end.model for end in ends if end.stage == HEAD)
        if len(local) < len(outputs):
            inner = tuple(nodes[end] for end in ends if end.stage != HEAD)
            _, server = split_between(outputs, inner, local)
            splits.setdefault((server.takes, local), Split(plan, ends))
    return sorted(splits.values(), key=lambda split: split.ends)


class Forest:
    """The representations of a plan from the inputs on, with each head behind its deepest tap.

    A choice of ends cuts every tree: all up to the ends is the device's. A representation whose
    followers are all left to the server is an end itself. So a representation has one choice of
    ends more than nothing for each follower: the numbers of choices multiply, plus 1 each.
    """

    def __init__(self, outputs: Collection[Output]) -> None:
        self._followers: dict[Node | None, dict[_Place, None]] = {}
        for output in outputs:
            depths = {tap: len(upstream_nodes((tap,))) for tap in output.taps}
            for node in upstream_nodes(output.taps):
                self._followers.setdefault(node.source, {})[node] = None
            deepest = max(output.taps, key=depths.__getitem__)
            self._followers.setdefault(deepest, {})[Ref(output.model, HEAD)] = None
        self._counts: dict[_Place, int] = {}
        self._roots = [*self._followers[None]]

    @property
    def count(self) -> int:
        """The choices of ends, those with all models on the device included."""
        return prod(map(self._count, self._roots))

    def ends(self, index: int) -> tuple[Ref, ...]:
        """Return one choice of ends by its number, from 0 to `count` - 1."""
        ends: list[Ref] = []
        for root in self._roots:
            index, own = divmod(index, self._count(root))
            ends += self._ends(root, own)
        return tuple(ends)

    def _count(self, place: _Place) -> int:
        if place not in self._counts:
            followers = [] if isinstance(place, Ref) else self._followers.get(place, {})
            self._counts[place] = prod(1 + self._count(follower) for follower in followers)
        return self._counts[place]

    def _ends(self, place: _Place, index: int) -> Iterator[Ref]:
        """Yield the ends of a tree whose root the device computes."""
        if isinstance(place, Ref):
            yield place
            return
        if not index:
            yield place.ref
        for follower in self._followers.get(place, {}):
            index, own = divmod(index, 1 + self._count(follower))
            if own:
                yield from self._ends(follower, own - 1)


def _indices(count: int, most: int, seed: int) -> Iterator[int]:
    if count <= most:
        yield from range(count)
        return
    drawn: set[int] = set()
    generator = random.Random(seed)
    while len(drawn) < most:
        index = generator.randrange(count)
        if index not in drawn:
            drawn.add(index)
            yield index
