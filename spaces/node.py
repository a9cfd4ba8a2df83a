"""Identify a representation under a plan by everything upstream of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from spaces.liveness import Layouts, previous_stage
from spaces.plan import Ref, Share, SharePlan


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
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.ref, self.share, self.source)))

    def __hash__(self) -> int:
        return self._hash


def build_node(ref: Ref, plan: SharePlan, layouts: Layouts) -> Node:
    """Return the node of a representation under a plan without cycles."""
    share = plan.by_recipient().get(ref)
    source = share.donor if share else previous_stage(ref, layouts)
    return Node(ref, share, None if source is None else build_node(source, plan, layouts))


def tap_nodes(model: str, plan: SharePlan, layouts: Layouts) -> tuple[Node, ...]:
    """Return the nodes that the head of a model reads under a plan."""
    return tuple(build_node(Ref(model, tap), plan, layouts) for tap in layouts[model].taps)


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
