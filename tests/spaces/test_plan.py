"""A plan is data: one hash for any spelling, and nothing malformed is accepted."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.errors import BadPlan
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Ref, Share, SharePlan

names = st.text(string.ascii_letters + string.digits + "._-é ()", min_size=1, max_size=8)
adapters = st.just(IDENTITY) | st.builds(AdapterSpec, st.just("linear"), st.integers(0, 999))
shares = st.builds(
    lambda models, i, j, adapter: Share(Ref(models[0], i), Ref(models[1], j), adapter),
    st.lists(names, min_size=2, max_size=2, unique=True),
    names,
    names,
    adapters,
)
share_lists = st.lists(shares, max_size=6, unique_by=lambda share: share.recipient)

HUGE = ("[" * 100_000, "1" * 5_000)
NO_RANKS = ("", "-1", "x", "1.5", "4@4", "²", "9" * 5_000)


def plan_of(*entries: dict[str, Any], version: Any = 1) -> str:
    return json.dumps({"version": version, "shares": list(entries)})


@given(share_lists, st.randoms())
def test_the_order_and_repetition_of_shares_do_not_matter(
    listed: list[Share], random: Any
) -> None:
    shuffled = listed + listed[:2]
    random.shuffle(shuffled)
    one, other = SharePlan(tuple(listed)), SharePlan(tuple(shuffled))
    assert one == other and one.hash == other.hash and one.to_json() == other.to_json()


@given(share_lists, st.sampled_from([None, 1, 7]))
def test_the_formatting_of_the_json_does_not_matter(listed: list[Share], indent: Any) -> None:
    plan = SharePlan(tuple(listed))
    data = plan.to_dict()
    data["shares"] = [dict(reversed(entry.items())) for entry in reversed(data["shares"])]
    rewritten = SharePlan.from_json(json.dumps(data, indent=indent, ensure_ascii=False))
    assert rewritten == plan and rewritten.hash == plan.hash


@given(share_lists)
def test_a_plan_survives_the_round_trip_through_json(listed: list[Share]) -> None:
    plan = SharePlan(tuple(listed))
    assert SharePlan.from_json(plan.to_json()) == plan == SharePlan.from_dict(plan.to_dict())
    assert plan.by_recipient() == {share.recipient: share for share in listed}


@given(share_lists, share_lists)
def test_different_plans_have_different_hashes(one: list[Share], other: list[Share]) -> None:
    same = SharePlan(tuple(one)) == SharePlan(tuple(other))
    assert (SharePlan(tuple(one)).hash == SharePlan(tuple(other)).hash) is same


def test_the_hash_is_stable_across_versions_of_the_program() -> None:
    """Logs and bundles contain it, so changing it needs a new plan version."""
    plan = SharePlan((Share(Ref("b", "x"), Ref("a", "y"), AdapterSpec("linear", 8)),))
    assert plan.to_json() == (
        '{"shares":[{"adapter":"linear@8","donor":"a:y","recipient":"b:x"}],"version":1}'
    )
    assert plan.hash == "2fb1090d1c5f"


def test_the_default_adapter_is_linear_with_full_rank() -> None:
    plan = SharePlan.from_json(plan_of({"donor": "a:x", "recipient": "b:x"}))
    assert plan.shares == (Share(Ref("b", "x"), Ref("a", "x"), LINEAR),)


def test_a_plan_as_text() -> None:
    share = Share(Ref("b", "x"), Ref("a", "y"), AdapterSpec("linear", 8))
    assert str(SharePlan((share,))) == "a:y -> b:x (linear@8)"
    assert str(SharePlan()) == "nothing shared"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"plan"',
        "{}",
        '{"version": 1}',
        '{"version": 1, "shares": {}}',
        *HUGE,
    ],
)
def test_json_that_is_not_a_plan_is_refused(text: str) -> None:
    with pytest.raises(BadPlan):
        SharePlan.from_json(text)


@given(st.text(max_size=30) | st.binary(max_size=30).map(lambda b: b.decode("latin-1")))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for reading in (SharePlan.from_json, Ref.parse, AdapterSpec.parse):
        try:
            reading(text)
        except BadPlan:
            continue


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["donor", "recipient", "adapter"]), json_values))
def test_any_value_in_a_share_is_parsed_or_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(BadPlan):
        SharePlan.from_dict({"version": 1, "shares": [entry | {"recipient": "no colon"}]})
    try:
        SharePlan.from_dict(
            {"version": 1, "shares": [{"donor": "a:x", "recipient": "b:x"} | entry]}
        )
    except BadPlan:
        return


@pytest.mark.parametrize("version", [0, 4, "1", None])
def test_a_plan_of_another_version_is_refused(version: object) -> None:
    with pytest.raises(BadPlan, match=f"version {version!r}: only 1, 2 and 3"):
        SharePlan.from_json(plan_of(version=version))


def test_two_donors_for_one_recipient_are_refused() -> None:
    one, other = (Share(Ref("c", "x"), Ref(model, "x")) for model in "ab")
    with pytest.raises(BadPlan, match="c:x has more than one donor"):
        SharePlan((one, other))
    with pytest.raises(BadPlan, match="more than one donor"):
        SharePlan((one, Share(one.recipient, one.donor, IDENTITY)))


def test_a_share_within_one_model_is_refused() -> None:
    with pytest.raises(BadPlan, match="different models"):
        Share(Ref("a", "x"), Ref("a", "y"))


@pytest.mark.parametrize("entry", [{}, {"donor": "a:x"}, {"recipient": "a:x"}, [], "a:x", 3, None])
def test_a_share_without_donor_or_recipient_is_refused(entry: Any) -> None:
    with pytest.raises(BadPlan, match="donor and recipient"):
        SharePlan.from_json(plan_of(entry))


def test_a_misspelt_key_in_a_share_is_refused() -> None:
    with pytest.raises(BadPlan, match="adaptor"):
        SharePlan.from_json(plan_of({"donor": "a:x", "recipient": "b:x", "adaptor": "identity"}))


@pytest.mark.parametrize("text", ["", "a", ":", "a:", ":x", "a:b:c", "a->b:x"])
def test_texts_that_name_no_representation_are_refused(text: str) -> None:
    with pytest.raises(BadPlan):
        Ref.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "LINEAR", "procrustes", "@4", "identity@4", *(f"linear@{rank}" for rank in NO_RANKS)],
)
def test_texts_that_name_no_adapter_are_refused(text: str) -> None:
    with pytest.raises(BadPlan, match="adapter"):
        AdapterSpec.parse(text)


@given(adapters)
def test_an_adapter_survives_the_round_trip_through_text(adapter: AdapterSpec) -> None:
    assert AdapterSpec.parse(str(adapter)) == adapter
