"""Liveness of stages and shares: cases by hand, and a slow reference over random plans.

The hand-drawn models: `cls` and `cas` are classifiers (one tap, at the end), `det` a detector.

    cls, cas:  1 - 2 - 3 - 4*        det:  1 - 2* - 3* - 4*        * tap
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import BadPlan
from spaces.liveness import canonical, liveness
from spaces.node import tap_nodes, upstream_nodes
from spaces.plan import Ref, Share, SharePlan
from spaces.stages import Layout

STAGES = ("1", "2", "3", "4")
LAYOUTS = {
    "cls": Layout("cls", STAGES, ("4",)),
    "cas": Layout("cas", STAGES, ("4",)),
    "det": Layout("det", STAGES, ("2", "3", "4")),
}
REFS = [Ref(model, stage) for model in LAYOUTS for stage in STAGES]
ALL_SHARES = [Share(j, i) for i in REFS for j in REFS if i.model != j.model]


def plan(*texts: str) -> SharePlan:
    """Build a plan from texts `donor > recipient`, with cls:1 written cls1."""
    pairs = [[Ref(end[:3], end[3:]) for end in text.split(" > ")] for text in texts]
    return SharePlan(tuple(Share(recipient, donor) for donor, recipient in pairs))


def live(plan: SharePlan) -> str:
    """Return the live stages of each model, as `cls 1234 cas 34 det -`."""
    stages = liveness(plan, LAYOUTS).stages
    alive = {m: "".join(s for s in STAGES if Ref(m, s) in stages) for m in LAYOUTS}
    return " ".join(f"{model} {stages or '-'}" for model, stages in alive.items())


def test_without_shares_every_stage_is_live() -> None:
    assert live(plan()) == "cls 1234 cas 1234 det 1234"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        # a classifier needs nothing before a replaced representation
        (["cas2 > cls2"], "cls 34 cas 1234 det 1234"),
        (["cas4 > cls4"], "cls - cas 1234 det 1234"),
        (["cas1 > cls4"], "cls - cas 1234 det 1234"),
        (["cas4 > cls1"], "cls 234 cas 1234 det 1234"),
        # a detector's earlier taps keep its early stages alive
        (["cls4 > det4"], "cls 1234 cas 1234 det 123"),
        (["cls3 > det3"], "cls 1234 cas 1234 det 124"),
        (["cls2 > det2"], "cls 1234 cas 1234 det 34"),
        (["cls3 > det3", "cls4 > det4"], "cls 1234 cas 1234 det 12"),
        (["cls2 > det2", "cls3 > det3", "cls4 > det4"], "cls 1234 cas 1234 det -"),
        # a donor is live although its own model no longer needs it
        (["cls2 > cas2", "det4 > cls4"], "cls 12 cas 34 det 1234"),
        # chains: the donor's representation is itself shared
        (["cls3 > cas3", "cas3 > det3"], "cls 1234 cas 4 det 124"),
        (["cls4 > cas4", "cas4 > det4"], "cls 1234 cas - det 123"),
        # shares in both directions
        (["cls2 > cas2", "cas3 > cls3"], "cls 124 cas 34 det 1234"),
        (["cls1 > cas1", "cas2 > cls2", "cls3 > cas3"], "cls 134 cas 24 det 1234"),
    ],
)
def test_the_live_stages_of_plans_drawn_by_hand(texts: list[str], expected: str) -> None:
    assert live(plan(*texts)) == expected


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        (["cas1 > cls1", "cas2 > cls2"], ["cas2 > cls2"]),
        (["cas1 > cls1", "cas2 > cls2", "cas4 > cls4"], ["cas4 > cls4"]),
        (["cls1 > det1", "cls2 > det2"], ["cls2 > det2"]),
        (["cls1 > det1", "cls3 > det3"], ["cls1 > det1", "cls3 > det3"]),
        # a stage that only the donor of a dead share needed is dead too
        (
            ["det1 > cas1", "cas2 > cls1", "det4 > cas4", "det4 > cls4"],
            ["det4 > cas4", "det4 > cls4"],
        ),
    ],
)
def test_shares_that_no_output_reads_are_dropped(texts: list[str], read: list[str]) -> None:
    assert canonical(plan(*texts), LAYOUTS) == plan(*read)
    assert canonical(plan(*texts), LAYOUTS).hash == plan(*read).hash


@pytest.mark.parametrize(
    "texts",
    [
        ["cls2 > cas2", "cas2 > cls2"],
        ["cls3 > cas2", "cas3 > cls2"],
        ["cls4 > cas1", "cas4 > cls1"],
        ["cls2 > cas2", "cas2 > det2", "det2 > cls2"],
        ["cls3 > cas2", "cas3 > det2", "det3 > cls2"],
    ],
)
def test_a_representation_that_depends_on_itself_is_refused(texts: list[str]) -> None:
    with pytest.raises(BadPlan, match="depend on itself"):
        liveness(plan(*texts), LAYOUTS)


def test_a_cycle_that_no_output_reads_is_dropped() -> None:
    dead = ["cls3 > cas2", "cas3 > cls2", "det4 > cas4", "det4 > cls4"]
    assert canonical(plan(*dead), LAYOUTS) == plan("det4 > cas4", "det4 > cls4")


@pytest.mark.parametrize(
    ("text", "message"), [("nil1 > cls1", "no model 'nil'"), ("cls9 > cas1", "no stage '9'")]
)
def test_unknown_names_are_refused(text: str, message: str) -> None:
    for refusing in (liveness, canonical):
        with pytest.raises(BadPlan, match=message):
            refusing(plan(text), LAYOUTS)


random_plans = st.lists(
    st.sampled_from(ALL_SHARES), max_size=10, unique_by=lambda share: share.recipient
).map(lambda shares: SharePlan(tuple(shares)))


def slow_needs(ref: Ref, plan: SharePlan, above: tuple[Ref, ...] = ()) -> set[Ref | Share]:
    """Return all stages and shares in the expression that computes `ref`: the definition."""
    if ref in above:
        raise RecursionError(f"{ref} is part of itself")
    for share in plan.shares:
        if share.recipient == ref:
            return {share} | slow_needs(share.donor, plan, (*above, ref))
    if ref.stage == "1":
        return {ref}
    before = Ref(ref.model, str(int(ref.stage) - 1))
    return {ref} | slow_needs(before, plan, (*above, ref))


def slow_liveness(plan: SharePlan) -> set[Ref | Share] | None:
    needed: set[Ref | Share] = set()
    try:
        for model, layout in LAYOUTS.items():
            for tap in layout.taps:
                needed |= slow_needs(Ref(model, tap), plan)
    except RecursionError:
        return None
    return needed


@settings(max_examples=500)
@given(random_plans)
def test_liveness_agrees_with_its_definition(plan: SharePlan) -> None:
    try:
        actual = liveness(plan, LAYOUTS)
    except BadPlan:
        assert slow_liveness(plan) is None
        return
    assert slow_liveness(plan) == {*actual.stages, *actual.shares}


@settings(max_examples=200)
@given(random_plans)
def test_the_canonical_plan_is_equivalent_and_canonical_itself(plan: SharePlan) -> None:
    if slow_liveness(plan) is None:
        return
    reduced = canonical(plan, LAYOUTS)
    assert liveness(reduced, LAYOUTS) == liveness(plan, LAYOUTS)
    assert liveness(reduced, LAYOUTS).shares == set(reduced.shares)
    assert canonical(reduced, LAYOUTS) == reduced


@settings(max_examples=200)
@given(random_plans)
def test_the_nodes_are_the_live_stages_and_shares_in_topological_order(plan: SharePlan) -> None:
    if slow_liveness(plan) is None:
        return
    roots = tuple(node for model in LAYOUTS for node in tap_nodes(model, plan, LAYOUTS))
    order = upstream_nodes(roots)
    assert len(set(order)) == len(order)
    for position, node in enumerate(order):
        assert node.source is None or node.source in order[:position]
        assert (node.source is None) == (node.share is None and node.ref.stage == "1")
    assert {node.share or node.ref for node in order} == slow_liveness(plan)
