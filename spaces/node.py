"""Identify a representation under a plan by everything upstream of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from spaces.liveness import Layouts, previous_stage
from spaces.plan import Precision, Ref, Share, SharePlan


@dataclass(frozen=True)
class Weights:
    """How the weights that compute a value are stored."""

    precision: Precision | None = None
    """None: as the models give them."""
    folds: tuple[tuple[str, Share], ...] = ()
    """Module paths of layers within the stage or head, each with the share whose map is folded
    into it."""
    folded_away: bool = False
    """Whether the map of a share is folded into its consumers, so that nothing but a resize is
    left."""


AS_GIVEN = Weights()


@dataclass(frozen=True)
class Node:
    """One value to compute: a stage, or the adapter of a share, applied to a source.

    Two plans with the same stages and shares upstream of a representation have equal nodes for
    it, so that its value is computed once for both.
    """

    ref: Ref
    share: Share | None
    source: Node | None
    """None only for a first stage, which reads the input of its model."""
    weights: Weights = AS_GIVEN
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.ref, self.share, self.source, self.weights)))

    def __hash__(self) -> int:
        return self._hash


class Output(NamedTuple):
    """The output of a model: the nodes that its head reads, and the head's weights."""

    model: str
    taps: tuple[Node, ...]
    head: Weights = AS_GIVEN


WeightsByOwner = Mapping[Ref, Weights]
"""By representation or head: the weights of stages, maps and heads that are not as given."""


def build_node(
    ref: Ref, plan: SharePlan, layouts: Layouts, weights: WeightsByOwner | None = None
) -> Node:
    """Return the node of a representation under a plan without cycles."""
    share = plan.by_recipient().get(ref)
    source = share.donor if share else previous_stage(ref, layouts)
    return Node(
        ref,
        share,
        None if source is None else build_node(source, plan, layouts, weights),
        (weights or {}).get(ref, AS_GIVEN),
    )


def tap_nodes(
    model: str, plan: SharePlan, layouts: Layouts, weights: WeightsByOwner | None = None
) -> tuple[Node, ...]:
    """Return the nodes that the head of a model reads under a plan."""
    return tuple(
        build_node(Ref(model, tap), plan, layouts, weights) for tap in layouts[model].taps
    )


def upstream_nodes(roots: tuple[Node, ...]) -> list[Node]:
    """Return the roots and everything upstream of them: each node once, after its source."""
    ordered: dict[Node, None] = {}
    for root in roots:
        chain: list[Node] = []
        node: Node | None = root
        while node is not None and node not in ordered:
            chain.append(node)
            node = node.source
        ordered.update(dict.fromkeys(reversed(chain)))
    return list(ordered)
