"""Find the stages and shares that some output needs once the shares of a plan are in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from spaces.errors import BadPlan
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.stages import Layout

Layouts = Mapping[str, Layout]


@dataclass(frozen=True)
class Liveness:
    """The live stages and shares: those reached by walking back from the taps of every head."""

    stages: frozenset[Ref]
    shares: frozenset[Share]


def liveness(plan: SharePlan, layouts: Layouts) -> Liveness:
    """Return what the plan leaves live, walking back from the taps of every model.

    Raises:
        BadPlan: the plan names an unknown model or stage, or a representation depends on itself.
    """
    check_names(plan, layouts)
    shares = plan.by_recipient()
    live_stages: set[Ref] = set()
    live_shares: set[Share] = set()
    visited: set[Ref] = set()
    for layout in layouts.values():
        for tap in layout.taps:
            _walk_back(Ref(layout.model, tap), shares, layouts, live_stages, live_shares, visited)
    return Liveness(frozenset(live_stages), frozenset(live_shares))


def canonical(plan: SharePlan, layouts: Layouts) -> SharePlan:
    """Return the plan without what no output reads: equivalent plans become equal.

    That is shares, precisions of weights that are not there, and the refinement of a plan without
    a linear map. The precision of a linear map stays, although it does not count if the map is
    folded.

    Raises:
        BadPlan: as `liveness`.
    """
    live = liveness(plan, layouts)
    mapped = {share.recipient for share in live.shares if share.adapter.kind == "linear"}
    owners = live.stages | mapped | {Ref(name, HEAD) for name in layouts}
    return replace(
        plan,
        shares=tuple(live.shares),
        precisions=tuple(entry for entry in plan.precisions if entry[0] in owners),
        refined=plan.refined and bool(mapped),
    )


def check_names(plan: SharePlan, layouts: Layouts) -> None:
    """Check that every model and stage that the plan names exists.

    Raises:
        BadPlan: one does not.
    """
    for share in plan.shares:
        for ref in (share.donor, share.recipient):
            _check_name(ref, str(share), layouts)
    for owner, precision in plan.precisions:
        if owner.stage != HEAD or owner.model not in layouts:
            _check_name(owner, precision, layouts)


def _check_name(ref: Ref, place: str, layouts: Layouts) -> None:
    if ref.model not in layouts:
        raise BadPlan(f"{place}: no model {ref.model!r}; there are {sorted(layouts)}")
    stages = layouts[ref.model].stages
    if ref.stage not in stages:
        raise BadPlan(f"{place}: {ref.model} has no stage {ref.stage!r}; it has {stages}")


def _walk_back(
    start: Ref,
    shares: Mapping[Ref, Share],
    layouts: Layouts,
    live_stages: set[Ref],
    live_shares: set[Share],
    visited: set[Ref],
) -> None:
    """Follow the chain of sources: each representation has exactly one."""
    chain: list[Ref] = []
    ref: Ref | None = start
    while ref is not None and ref not in visited:
        if ref in chain:
            raise BadPlan(f"cycle: {ref} would depend on itself")
        chain.append(ref)
        share = shares.get(ref)
        if share is not None:
            live_shares.add(share)
            ref = share.donor
        else:
            live_stages.add(ref)
            ref = previous_stage(ref, layouts)
    visited.update(chain)


def previous_stage(ref: Ref, layouts: Layouts) -> Ref | None:
    """Return the representation that a stage reads; None if it reads the input of the model."""
    layout = layouts[ref.model]
    index = layout.index(ref.stage)
    return Ref(ref.model, layout.stages[index - 1]) if index else None
