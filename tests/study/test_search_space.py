"""Trial parameters and plans: decoding inverts encoding, and every decoded plan is canonical.

cls, cas:  s0 - s1 - s2 - s3*        det:  s0 - s1* - s2* - s3*        * tap
"""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import made_up_facts, shares_in

from search.statistics.observed import Observed
from search.study.search_space import NO_SHARE_KEY, SearchSpace
from spaces.errors import BadPlan
from spaces.liveness import canonical, liveness
from spaces.model_facts import layouts_by_model
from spaces.plan import IDENTITY, LINEAR, Ref, Share, SharePlan
from spaces.shares import enumerate_shares, find_pairs

FACTS = made_up_facts({"cls": 4, "cas": 4, "det": 4}, {"det": (1, 2, 3)})
LAYOUTS = layouts_by_model(FACTS)
SHARES = enumerate_shares(find_pairs(FACTS).legal, FACTS, (IDENTITY, LINEAR))
SPACE = SearchSpace(LAYOUTS, SHARES)
parameters = st.fixed_dictionaries(
    {slot.name: st.sampled_from(sorted(slot.choices)) for slot in SPACE.slots}
)


def share(donor: str, recipient: str) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor))


def no_shares() -> dict[str, str]:
    return {slot.name: NO_SHARE_KEY for slot in SPACE.slots}


def test_there_is_one_slot_for_each_tap_of_each_model() -> None:
    names = [slot.name for slot in SPACE.slots]
    assert names == ["cls:s3", "cas:s3", "det:s1", "det:s2", "det:s3"]


def test_slots_cover_every_share_once_within_the_segment_of_its_tap() -> None:
    segments = {"cls:s3": "0123", "cas:s3": "0123", "det:s1": "01", "det:s2": "2", "det:s3": "3"}
    choices_of_all_slots = []
    for slot in SPACE.slots:
        choices = [one for one in slot.choices.values() if one is not None]
        assert {str(key): one for key, one in slot.choices.items() if one} == {
            str(one): one for one in choices
        }
        stages = {one.recipient.stage[1:] for one in choices}
        assert stages == set(segments[slot.name])
        choices_of_all_slots += choices
    assert sorted(choices_of_all_slots) == sorted(SHARES)


def test_the_slots_of_real_networks_cover_their_taps(mixed: Observed) -> None:
    facts = mixed.deployment.facts
    space = SearchSpace(layouts_by_model(facts), shares_in(mixed))
    assert [slot.name for slot in space.slots] == [
        "cls:pool", "det:blocks.2", "det:blocks.4", "det:blocks.6",
    ]  # fmt: skip


def test_the_size_is_the_number_of_combinations() -> None:
    few = SearchSpace(LAYOUTS, SHARES[:7])
    assert few.size == len(list(product(*(slot.choices for slot in few.slots))))


def test_without_shares_there_is_one_plan() -> None:
    space = SearchSpace(LAYOUTS, [])
    assert (space.slots, space.size, space.decode({})) == ((), 1, SharePlan())


def test_parameters_without_shares_decode_to_the_empty_plan() -> None:
    assert SPACE.decode(no_shares()) == SharePlan()
    assert SPACE.encode(SharePlan()) == no_shares()


@settings(max_examples=300)
@given(parameters)
def test_every_decoded_plan_is_canonical_and_without_cycles(
    trial_parameters: dict[str, str],
) -> None:
    plan = SPACE.decode(trial_parameters)
    liveness(plan, LAYOUTS)  # raises BadPlan for a cycle
    assert canonical(plan, LAYOUTS) == plan
    assert set(plan.shares) <= {slot.choices[trial_parameters[slot.name]] for slot in SPACE.slots}


@settings(max_examples=300)
@given(parameters)
def test_a_decoded_plan_encodes_to_parameters_that_decode_to_it(
    trial_parameters: dict[str, str],
) -> None:
    plan = SPACE.decode(trial_parameters)
    assert SPACE.decode(SPACE.encode(plan)) == plan


@settings(max_examples=300)
@given(parameters)
def test_parameters_without_cycles_decode_to_the_canonical_plan_of_their_shares(
    trial_parameters: dict[str, str],
) -> None:
    shares = [slot.choices[trial_parameters[slot.name]] for slot in SPACE.slots]
    plan = SharePlan(tuple(one for one in shares if one is not None))
    try:
        expected = canonical(plan, LAYOUTS)
    except BadPlan:
        return
    assert SPACE.decode(trial_parameters) == expected


def test_a_share_that_would_close_a_cycle_is_left_out() -> None:
    forth, back = share("cas:s3", "cls:s2"), share("cls:s3", "cas:s2")
    with pytest.raises(BadPlan):
        canonical(SharePlan((forth, back)), LAYOUTS)
    trial_parameters = {**no_shares(), "cls:s3": str(forth), "cas:s3": str(back)}
    assert SPACE.decode(trial_parameters) == SharePlan((forth,))


def test_a_later_share_may_break_a_cycle() -> None:
    shares = share("det:s2", "cls:s1"), share("cls:s2", "det:s1"), share("cls:s0", "det:s2")
    plan = SharePlan(shares)
    assert canonical(plan, LAYOUTS) == plan
    assert SPACE.decode(SPACE.encode(plan)) == plan


def test_shares_outside_the_space_are_left_out() -> None:
    space = SearchSpace(LAYOUTS, [one for one in SHARES if one.recipient.model == "cls"])
    inside, outside = share("cas:s1", "cls:s1"), share("cas:s1", "det:s1")
    assert space.decode(space.encode(SharePlan((inside, outside)))) == SharePlan((inside,))


def test_the_fingerprint_depends_on_the_shares() -> None:
    assert SearchSpace(LAYOUTS, SHARES).fingerprint == SPACE.fingerprint
    assert SearchSpace(LAYOUTS, SHARES[1:]).fingerprint != SPACE.fingerprint
