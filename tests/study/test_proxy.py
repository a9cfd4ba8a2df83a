"""The proxy on small plans whose quality is a formula.

cls:  s0 - s1 - s2 - s3*        det:  s0 - s1* - s2* - s3*        * tap
"""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import made_up_facts, made_up_similarity

from search.study.proxy import Proxy, upstream_shares
from spaces.errors import BadPlan
from spaces.liveness import canonical
from spaces.model_facts import layouts_by_model
from spaces.plan import LINEAR, Ref, Share, SharePlan
from spaces.shares import enumerate_shares, find_pairs

FACTS = made_up_facts({"cls": 4, "det": 4}, {"det": (1, 2, 3)})
LAYOUTS = layouts_by_model(FACTS)
SHARES = enumerate_shares(find_pairs(FACTS).legal, FACTS, (LINEAR,))
QUALITY_BY_SHARE = made_up_similarity(SHARES, seed=0)
PROXY = Proxy(QUALITY_BY_SHARE, LAYOUTS)


def share(donor: str, recipient: str) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor))


def test_the_empty_plan_keeps_all_quality() -> None:
    assert PROXY.quality(SharePlan()) == 1
    assert PROXY.by_model(SharePlan()) == {"cls": 1, "det": 1}


def test_a_classifier_keeps_the_quality_of_its_share() -> None:
    one = share("det:s2", "cls:s2")
    assert PROXY.by_model(SharePlan((one,))) == {
        "cls": pytest.approx(QUALITY_BY_SHARE[one]),
        "det": 1,
    }
    assert PROXY.quality(SharePlan((one,))) == pytest.approx((QUALITY_BY_SHARE[one] + 1) / 2)


def test_a_detector_keeps_the_mean_over_its_taps() -> None:
    one = share("cls:s2", "det:s2")  # taps s2 and s3 lie behind it, s1 before it
    expected = (1 + 2 * QUALITY_BY_SHARE[one]) / 3
    assert PROXY.by_model(SharePlan((one,))) == {"cls": 1, "det": pytest.approx(expected)}


def test_the_qualities_of_shares_in_a_row_multiply() -> None:
    first, last = share("det:s1", "cls:s1"), share("cls:s2", "det:s3")
    quality_by_model = PROXY.by_model(SharePlan((first, last)))
    assert quality_by_model["cls"] == pytest.approx(QUALITY_BY_SHARE[first])
    assert quality_by_model["det"] == pytest.approx(
        (2 + QUALITY_BY_SHARE[first] * QUALITY_BY_SHARE[last]) / 3
    )


def test_the_shares_upstream_of_a_representation_are_listed_nearest_first() -> None:
    first, last = share("det:s1", "cls:s1"), share("cls:s2", "det:s3")
    by_recipient = SharePlan((first, last)).by_recipient()
    assert upstream_shares(Ref("det", "s3"), by_recipient, LAYOUTS) == [last, first]
    assert upstream_shares(Ref("det", "s2"), by_recipient, LAYOUTS) == []


@pytest.mark.parametrize(("value", "quality"), [(1.7, 1.0), (-0.4, 0.0), (0.3, 0.3)])
def test_the_quality_of_a_share_is_clipped_to_0_and_1(value: float, quality: float) -> None:
    one = share("det:s3", "cls:s3")
    assert Proxy({one: value}, LAYOUTS).by_model(SharePlan((one,)))["cls"] == quality


@given(st.lists(st.sampled_from(SHARES), max_size=5, unique_by=lambda one: one.recipient))
def test_a_plan_keeps_at_least_the_product_of_its_shares(shares: list[Share]) -> None:
    try:
        plan = canonical(SharePlan(tuple(shares)), LAYOUTS)
    except BadPlan:
        return
    assert prod(QUALITY_BY_SHARE[one] for one in plan.shares) <= PROXY.quality(plan) <= 1
    assert (PROXY.quality(plan) < 1) == bool(plan.shares)
