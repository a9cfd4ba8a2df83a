"""Plans and the difference between two plans, in sentences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import ZooDeployment

from search.report.plan_diff import SAME_STAGES, describe_difference, describe_plan
from spaces.plan import AdapterSpec, Ref, Share, SharePlan


def plan(*shares: str) -> SharePlan:
    """Parse shares `donor:stage>recipient:stage`, with @identity for another adapter."""
    return SharePlan(tuple(_share(text) for text in shares))


def _share(text: str) -> Share:
    path, _, adapter = text.partition("@")
    donor, _, recipient = path.partition(">")
    return Share(Ref.parse(recipient), Ref.parse(donor), AdapterSpec.parse(adapter or "linear"))


@pytest.mark.parametrize(
    ("new", "old", "sentences"),
    [
        (
            plan("classifier:blocks.4>detector:blocks.4"),
            plan("classifier:blocks.5>detector:blocks.5"),
            ["detector now takes blocks.4 from classifier instead of blocks.5"],
        ),
        (
            plan("classifier:pool>detector:blocks.5"),
            plan("classifier:blocks.5>detector:blocks.5"),
            ["detector now takes blocks.5 from classifier's pool instead of blocks.5"],
        ),
        (
            plan("c:b5>d:b5"),
            plan("e:b5>d:b5"),
            ["d now takes b5 from c instead of b5 from e"],
        ),
        (
            plan("c:b5>d:b5@identity"),
            plan("c:b5>d:b5"),
            ["d now takes b5 from c (identity) instead of b5"],
        ),
        (
            plan("d:b5>c:b5"),
            plan("c:b5>d:b5"),
            ["c now takes b5 from d", "d uses its own b5 again instead of b5 from c"],
        ),
        (plan("c:b5>d:b5"), plan("c:b5>d:b5"), [SAME_STAGES]),
        (plan(), plan("c:b4>d:b5"), ["d uses its own b5 again instead of b5 from c's b4"]),
        # one share stays, one moves, one is new
        (
            plan("c:b1>d:b1", "c:b3>d:b3", "c:b5>d:b5"),
            plan("c:b1>d:b1", "c:b2>d:b2"),
            ["d now takes b3 from c instead of b2", "d now takes b5 from c"],
        ),
    ],
)
def test_each_difference_is_a_sentence(
    new: SharePlan, old: SharePlan, sentences: list[str]
) -> None:
    assert describe_difference(new, old) == sentences


def test_a_plan_is_described_without_another() -> None:
    assert describe_plan(plan()) == ["nothing is shared"]
    assert describe_plan(plan("c:b5>d:b5")) == ["d now takes b5 from c"]


def stored(base: SharePlan, **names: str) -> SharePlan:
    """Return the plan with precisions, given as int8="c:b5 c:(head)"."""
    return base.with_precisions(
        {Ref.parse(o): precision for precision, owners in names.items() for o in owners.split()}  # type: ignore[misc]
    )


@pytest.mark.parametrize(
    ("new", "old", "sentences"),
    [
        (
            stored(plan(), int8="c:b5 c:(head)"),
            stored(plan(), float16="c:b5 c:(head)"),
            ["c stores b5 and head in int8 instead of float16"],
        ),
        (stored(plan(), int8="c:b5"), plan(), ["c stores b5 in int8"]),
        (plan(), stored(plan(), int8="c:b5"), ["c no longer stores b5 in int8"]),
        (
            stored(plan("c:b5>d:b5"), int8="d:b5 c:b2 c:b10", float16="d:(head)"),
            stored(plan("c:b5>d:b5"), int8="d:(head)"),
            [
                "c stores b2 and b10 in int8",
                "d stores the map into b5 in int8",
                "d stores head in float16 instead of int8",
            ],
        ),
        (stored(plan(), int8="c:b5"), stored(plan(), int8="c:b5"), [SAME_STAGES]),
    ],
)
def test_each_changed_precision_is_described_model_by_model(
    new: SharePlan, old: SharePlan, sentences: list[str]
) -> None:
    assert describe_difference(new, old) == sentences


def test_precisions_belong_to_the_description_of_a_plan() -> None:
    only_stored = stored(plan(), int8="c:b5")
    assert describe_plan(only_stored) == ["nothing is shared", "c stores b5 in int8"]
    both = stored(plan("c:b5>d:b5"), float16="d:b5")
    assert describe_plan(both) == [
        "d now takes b5 from c", "d stores the map into b5 in float16",
    ]  # fmt: skip


STAGES = st.sampled_from(["b1", "b2", "b3"])


@st.composite
def plans(draw: st.DrawFn) -> SharePlan:
    recipients = draw(st.lists(st.tuples(st.sampled_from("cd"), STAGES), unique=True, max_size=4))
    return SharePlan(
        tuple(
            Share(Ref(model, stage), Ref("d" if model == "c" else "c", draw(STAGES)))
            for model, stage in recipients
        )
    )


@given(plans(), plans())
def test_exactly_the_changed_shares_are_described_once(new: SharePlan, old: SharePlan) -> None:
    sentences = describe_difference(new, old)
    added, removed = set(new.shares) - set(old.shares), set(old.shares) - set(new.shares)
    assert (sentences == [SAME_STAGES]) == (not added and not removed)
    assert sum(" now takes " in sentence for sentence in sentences) == len(added)
    removals = sum(" instead of " in s or " uses its own " in s for s in sentences)
    assert removals == len(removed)


def test_plans_of_a_real_network_are_described(two_copies: Callable[[str], ZooDeployment]) -> None:
    deployment = two_copies("timm/mobilenetv2_100")
    first, second = deployment.random_plans(2)
    assert describe_difference(first, second) and describe_difference(first, first) == [
        SAME_STAGES
    ]
