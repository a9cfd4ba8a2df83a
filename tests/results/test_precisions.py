"""The precisions of plans: bytes by stage, head and map, and their words."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_precisions import PRECISIONS, stored_in_fewer_bytes
from tiny import FinishedRun, MadeUpDeployment

from search.results.precisions import (
    StoredBytes,
    describe_stored,
    name_weights,
    owner_precisions,
    parts_text,
    stored_bytes_by_precision,
)
from search.results.search_result import Result
from search.study.precision.profiles import apply_profile, weight_owners
from search.utils.records import read_record
from spaces.bundle import load_bundle, read_bundle_contents
from spaces.cost import CostModel
from spaces.errors import BadPlan
from spaces.liveness import canonical
from spaces.model_facts import layouts_by_model
from spaces.plan import HEAD, Precision, Ref, Share, SharePlan
from spaces.precision import TORCH_DTYPES

WORLD = MadeUpDeployment({"a": 7, "b": 5, "c": 9}, {"b": (2, 4)})
COSTS = CostModel(stored_in_fewer_bytes(WORLD.facts))


def random_plan(seed: int) -> SharePlan:
    """Return a canonical plan of up to four shares with a random precision of all weights."""
    chance = random.Random(seed)
    while True:
        shares = chance.choices(sorted(WORLD.similarities), k=chance.randint(0, 4))
        plan = SharePlan(tuple({share.recipient: share for share in shares}.values()))
        try:
            plan = canonical(plan, layouts_by_model(COSTS.facts))
        except BadPlan:
            continue
        profile = {owner: chance.choice(PRECISIONS) for owner in weight_owners(COSTS.facts)}
        return apply_profile(plan, profile, COSTS.facts)


@given(st.integers(0, 10_000))
def test_the_bytes_of_the_precisions_add_up_to_those_of_the_plan(seed: int) -> None:
    plan = random_plan(seed)
    stored = stored_bytes_by_precision(plan, COSTS)
    assert bool(stored) == bool(plan.precisions)
    by_owner = COSTS.bytes_by_owner(plan)
    assert sum(by_owner.values()) == COSTS.bytes(plan)
    sizes = [sum(owners.values()) for owners in stored.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert not stored or sum(sizes) == COSTS.bytes(plan)
    for owner, precision in owner_precisions(stored).items():
        assert precision == plan.precision_by_owner.get(owner, "float32")
        assert stored[precision][str(owner)] == by_owner[owner]
    if stored:
        assert set(plan.precision_by_owner) <= set(owner_precisions(stored))


def test_the_record_of_a_run_agrees_with_the_tensors_of_its_bundle(
    precise_run: FinishedRun,
) -> None:
    chosen = precise_run.result.chosen_candidate
    bundle = load_bundle(precise_run.out / "bundle")
    precisions = owner_precisions(chosen.stored)
    seen = set[Precision]()
    for _, owner, module in bundle.merged.parts():
        dtypes = {tensor.dtype for tensor in module.parameters()}
        if owner in precisions:
            assert TORCH_DTYPES[precisions[owner]] in dtypes, owner
            seen.add(precisions[owner])
    assert seen == set(chosen.stored) and seen - {"float32"}
    assert sum(size for owners in chosen.stored.values() for size in owners.values()) == (
        chosen.bytes
    )
    contents = read_bundle_contents(precise_run.out / "bundle")
    assert stored_bytes_by_precision(contents.plan, CostModel(contents.facts)) == chosen.stored


def test_a_plan_without_precisions_has_neither_bytes_nor_words(tiny_run: FinishedRun) -> None:
    assert not tiny_run.result.has_precisions
    for record in (*tiny_run.result.candidates, *tiny_run.result.front):
        assert record.stored == {} and record.precision_text == ""
    assert '"stored"' not in (tiny_run.out / "result.json").read_text(encoding="utf-8")


def test_a_result_with_precisions_reads_as_it_was_written(precise_run: FinishedRun) -> None:
    result = read_record(Result, precise_run.out / "result.json")
    assert result.has_precisions and result == precise_run.result


SHARE = Share.between("d:b5", "c:b5")


def stored_as(**names: str) -> StoredBytes:
    """Return owners of falling bytes: `int8="d:b1 d:b2"`."""
    return {
        precision: {owner: 100 - k for owner in owners.split()}  # type: ignore[misc]
        for k, (precision, owners) in enumerate(names.items())
    }


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (stored_as(int8="d:b1 d:b2"), "weights in int8"),
        (
            stored_as(int8="d:b1 d:b2 d:(head)", float16="d:b0"),
            "weights in int8, except d b0 in float16",
        ),
        (
            stored_as(int8="d:b2 c:b7", float16="d:b0 d:b1 d:(head) c:(head)", float32="c:b6"),
            "weights in int8, except d b0, b1 and head, and c head in float16; c b6 in float32",
        ),
        (
            stored_as(int8="d:b2 d:b3", float16="c:b6 c:(head)"),
            "weights in int8, except all of c in float16",
        ),
        (
            stored_as(float32="d:b9", int8="d:b1 d:b2 d:b3 d:b4 d:(head)"),
            "weights in float32, except d b1, b2, 2 more stages and head in int8",
        ),
        (
            stored_as(int8="d:b1 c:b6", float16="c:b5 c:(head)"),
            "weights in int8, except c head and the map into b5 in float16",
        ),
    ],
)
def test_the_most_frequent_precision_comes_first_then_the_exceptions(
    stored: StoredBytes, words: str
) -> None:
    assert describe_stored(SharePlan((SHARE,)), stored) == words


def test_without_bytes_only_the_listed_precisions_are_described() -> None:
    owners: dict[Ref, Precision] = {Ref("d", f"b{k}"): "int8" for k in (2, 10)}
    plan = SharePlan((SHARE,)).with_precisions({**owners, Ref("c", HEAD): "float16"})
    assert describe_stored(plan, {}) == (
        "weights of d b2 and b10 in int8; c head in float16; all others in the dtype of the models"
    )
    assert describe_stored(SharePlan((SHARE,)), {}) == ""


def test_thirty_stages_are_counted_not_named() -> None:
    owners = [Ref("d", f"b{k}") for k in range(30)]
    assert name_weights(owners, SharePlan()) == "b0, b1 and 28 more stages"


def test_parts_are_shares_of_the_bytes() -> None:
    assert parts_text({"int8": {"d:b1": 60, "d:b2": 30}, "float16": {"d:b3": 10}}) == (
        "int8 90.0%, float16 10.0%"
    )
