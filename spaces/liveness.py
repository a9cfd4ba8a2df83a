"""Which stages and shares some output still needs once a plan's shares are in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spaces.errors import BadPlan
from spaces.plan import Ref, Share, SharePlan
from spaces.stages import Layout

Layouts = Mapping[str, Layout]


@dataclass(frozen=True)
class Liveness:
    """What is reached by walking back from every head's taps."""

    stages: frozenset[Ref]
    shares: frozenset[Share]


def liveness(plan: SharePlan, layouts: Layouts) -> Liveness:
    """Walk back from the taps of every model.

    Raises:
        BadPlan: the plan names an unknown model or stage, or a representation depends on itself.
    """
    check_names(plan, layouts)
    shares = plan.by_recipient()
    alive: set[Ref] = set()
    used: set[Share] = set()
    done: set[Ref] = set()
    for layout in layouts.values():
        for tap in layout.taps:
            _walk_back(Ref(layout.model, tap), shares, layouts, alive, used, done)
    return Liveness(frozenset(alive), frozenset(used))


def canonical(plan: SharePlan, layouts: Layouts) -> SharePlan:
    """The plan without the shares that nothing reads: plans that mean the same become equal."""
    return SharePlan(tuple(liveness(plan, layouts).shares))


def check_names(plan: SharePlan, layouts: Layouts) -> None:
    """Refuse a plan that names a model or a stage that is not there."""
    for share in plan.shares:
        for ref in (share.donor, share.recipient):
            if ref.model not in layouts:
                raise BadPlan(f"{share}: no model {ref.model!r}; there are {sorted(layouts)}")
            known = layouts[ref.model].stages
            if ref.stage not in known:
                raise BadPlan(f"{share}: {ref.model} has no stage {ref.stage!r}; it has {known}")


def _walk_back(
    start: Ref,
    shares: Mapping[Ref, Share],
    layouts: Layouts,
    alive: set[Ref],
    used: set[Share],
    done: set[Ref],
) -> None:
    """Each representation has one source, so walking back is following a chain."""
    chain: list[Ref] = []
    ref: Ref | None = start
    while ref is not None and ref not in done:
        if ref in chain:
            raise BadPlan(f"cycle: {ref} would depend on itself")
        chain.append(ref)
        share = shares.get(ref)
        if share is not None:
            used.add(share)
            ref = share.donor
        else:
            alive.add(ref)
            ref = previous_stage(ref, layouts)
    done.update(chain)


def previous_stage(ref: Ref, layouts: Layouts) -> Ref | None:
    """The representation that this stage reads; None for a first stage, which reads the input."""
    layout = layouts[ref.model]
    index = layout.index(ref.stage)
    return Ref(ref.model, layout.stages[index - 1]) if index else None
