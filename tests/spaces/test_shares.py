"""The rules for legal pairs of representations, and the reasons for rejecting a pair."""

from __future__ import annotations

import pytest
from networks import Zoo, ZooDeployment

from spaces.activations import Footprint
from spaces.inputs import InputSpec
from spaces.model_facts import ModelFacts
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Ref
from spaces.shares import Pair, Pairs, enumerate_shares, find_pairs
from spaces.stages import Layout, StageFacts

LETTERBOX = InputSpec(64, 64, (0, 0, 0), (1, 1, 1), "letterbox").field_of_view
CROP = InputSpec(64, 64, (0, 0, 0), (1, 1, 1), "crop").field_of_view


def facts_of(model: str, *shapes: tuple[int, ...], wide: bool = False) -> ModelFacts:
    """Return facts with stages named 1, 2, ... of these shapes; nothing else matters here."""
    names = tuple(str(i + 1) for i in range(len(shapes)))
    none = Footprint(0, 0)
    stages = [StageFacts(n, s, 0, 0, False, none) for n, s in zip(names, shapes, strict=True)]
    return ModelFacts(
        layout=Layout(model, names, names[-1:]),
        task="classification",
        field_of_view=CROP if wide else LETTERBOX,
        stages=tuple(stages),
        tensors={},
        head_macs=0,
        consumers={},
        input_bytes=0,
        head_footprint=none,
    )


def pairs(*facts: ModelFacts) -> Pairs:
    return find_pairs({fact.layout.model: fact for fact in facts})


def rejection(donor: tuple[int, ...], recipient: tuple[int, ...]) -> str:
    """Return why a share from one shape to another is rejected; empty if it is legal."""
    result = pairs(facts_of("a", donor), facts_of("b", recipient))
    return result.rejected.get(Pair(Ref("a", "1"), Ref("b", "1")), "")


def test_every_ordered_pair_of_different_models_is_legal_or_rejected_once(
    street: ZooDeployment,
) -> None:
    result = find_pairs(street.facts)
    counts = [len(fact.stages) for fact in street.facts.values()]
    listed = [*result.legal, *result.rejected]
    assert len(listed) == len(set(listed)) == sum(counts) ** 2 - sum(n * n for n in counts)
    assert all(pair.donor.model != pair.recipient.model for pair in listed)
    assert all(result.rejected.values()), "every rejected pair has its reason"


@pytest.mark.parametrize(
    ("donor", "recipient"),
    [
        ((8, 16, 16), (8, 16, 16)),
        ((8, 64, 64), (8, 4, 4)),
        ((8, 4, 4), (8, 8, 8)),
        ((8, 10, 10), (8, 19, 20)),
        ((8, 4, 4), (8,)),
        ((8,), (8,)),
        ((8,), (8, 1, 1)),
        ((8, 1, 1), (8,)),
    ],
)
def test_finer_grids_and_grids_up_to_twice_coarser_are_legal(
    donor: tuple[int, ...], recipient: tuple[int, ...]
) -> None:
    assert rejection(donor, recipient) == ""


@pytest.mark.parametrize(
    ("donor", "recipient", "times"),
    [
        ((8, 4, 4), (8, 16, 16), "4.0"),
        ((8, 8, 4), (8, 16, 12), "3.0"),
        ((8, 1, 1), (8, 3, 3), "3.0"),
    ],
)
def test_a_donor_more_than_twice_coarser_is_rejected(
    donor: tuple[int, ...], recipient: tuple[int, ...], times: str
) -> None:
    assert rejection(donor, recipient) == (
        f"the donor's grid is {times} times coarser than the recipient's"
    )


def test_pooled_features_cannot_fill_a_grid() -> None:
    assert rejection((8,), (8, 2, 2)) == "pooled features have no positions"


def test_networks_that_see_different_parts_of_the_frame_share_nothing() -> None:
    result = pairs(facts_of("a", (8, 4, 4)), facts_of("b", (8, 4, 4), wide=True))
    assert result.legal == ()
    for reason in result.rejected.values():
        assert "different fields of view" in reason
        assert "crop" in reason and "letterbox" in reason


def test_identity_needs_equal_channels_and_a_rank_below_both() -> None:
    facts = {
        f.layout.model: f for f in (facts_of("a", (8, 4, 4), (6, 4, 4)), facts_of("b", (8, 4, 4)))
    }
    adapters = (IDENTITY, LINEAR, *(AdapterSpec("linear", rank) for rank in (5, 6, 7, 8)))
    result = {
        str(share)
        for share in enumerate_shares(find_pairs(facts).legal, facts, adapters)
        if share.recipient.model == "b"
    }
    equal = {
        f"a:1 -> b:1 ({a})" for a in ("identity", "linear", "linear@5", "linear@6", "linear@7")
    }
    assert result == equal | {"a:2 -> b:1 (linear)", "a:2 -> b:1 (linear@5)"}


def test_a_cropped_classifier_does_not_pair_with_a_letterboxed_detector(zoo: Zoo) -> None:
    detector = zoo.facts("effdet/tf_efficientdet_lite0")
    assert detector.field_of_view == LETTERBOX
    assert not CROP.matches(detector.field_of_view)
