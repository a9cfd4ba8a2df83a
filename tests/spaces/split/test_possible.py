"""The splits of a plan are all that there are, each once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, combinations, product
from math import prod
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import ZooDeployment
from tiny import made_up_facts

from spaces.cost import CostModel
from spaces.execution import split_between
from spaces.liveness import Layouts, canonical
from spaces.merged import MergedModel
from spaces.model_facts import layouts_by_model
from spaces.node import Node, Output, tap_nodes, upstream_nodes
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.split.possible import Forest, possible_splits
from spaces.split.split import Split, SplitParts

T = TypeVar("T")
Key = tuple[frozenset[Node], frozenset[str]]
"""What crosses, and the models on the device: they determine both parts."""
SHARED = SharePlan((Share.between("a:s1", "b:s1"),))
TWO_WAYS = SharePlan((Share.between("a:s0", "b:s1"), Share.between("b:s2", "a:s2")))


def layouts_of(stages: Mapping[str, int], taps: Mapping[str, tuple[int, ...]] = {}) -> Layouts:
    return layouts_by_model(made_up_facts(stages, taps))


def outputs_of(plan: SharePlan, layouts: Layouts) -> list[Output]:
    plan = canonical(plan, layouts)
    return [Output(name, tap_nodes(name, plan, layouts)) for name in layouts]


def key_of(split: Split, outputs: list[Output]) -> Key:
    nodes = nodes_of(outputs)
    local = frozenset(end.model for end in split.ends if end.stage == HEAD)
    inner = tuple(nodes[end] for end in split.ends if end.stage != HEAD)
    _, server = split_between(outputs, inner, local)
    return frozenset(server.takes), local


def nodes_of(outputs: list[Output]) -> dict[Ref, Node]:
    return {node.ref: node for o in outputs for node in upstream_nodes(o.taps)}


def every_split(outputs: list[Output]) -> set[Key]:
    """Try all sets of ends."""
    nodes, names = [*nodes_of(outputs).values()], [output.model for output in outputs]
    found = set()
    for inner, local in product(subsets(nodes), subsets(names)):
        _, server = split_between(outputs, inner, local)
        if server.takes and not server.inputs_read:
            found.add((frozenset(server.takes), frozenset(local)))
    return found


def subsets(values: list[T]) -> list[tuple[T, ...]]:
    return [*chain.from_iterable(combinations(values, n) for n in range(len(values) + 1))]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_models_that_share_nothing_are_cut_independently(lengths: list[int]) -> None:
    """After each stage, or behind the head; but not all of them behind the head."""
    layouts = layouts_of({"abc"[k]: length for k, length in enumerate(lengths)})
    outputs = outputs_of(SharePlan(), layouts)
    count = prod(length + 1 for length in lengths)
    assert Forest(outputs).count == count
    splits = possible_splits(SharePlan(), outputs, most=1000)
    assert len({split.ends for split in splits}) == len(splits) == count - 1


@pytest.mark.parametrize("shared", [1, 2, 3])
def test_behind_a_trunk_each_tail_is_the_servers_or_cut_anywhere(shared: int) -> None:
    """On the trunk there is one split for each stage but the last, from which the tails go on."""
    plan = SharePlan((Share.between(f"a:s{shared - 1}", f"b:s{shared - 1}"),))
    outputs = outputs_of(plan, layouts_of({"a": 5, "b": 4}))
    # of b, the adapter is a place of its own, before what is left of its chain
    tails = (1 + (5 - shared) + 1) * (1 + 1 + (4 - shared) + 1)
    assert Forest(outputs).count == shared - 1 + tails
    assert len(possible_splits(plan, outputs)) == shared - 1 + tails - 1


@pytest.mark.parametrize("plan", [SharePlan(), SHARED, TWO_WAYS])
@pytest.mark.parametrize("taps", [{}, {"a": (0, 2), "b": (1, 2)}, {"a": (1, 2)}])
def test_the_splits_are_all_that_there_are(
    plan: SharePlan, taps: dict[str, tuple[int, ...]]
) -> None:
    outputs = outputs_of(plan, layouts_of({"a": 3, "b": 3}, taps))
    splits = possible_splits(plan, outputs)
    keys = [key_of(split, outputs) for split in splits]
    assert len({*keys}) == len(keys)
    assert {*keys} == every_split(outputs)


def test_too_many_are_drawn_by_the_seed() -> None:
    outputs = outputs_of(SharePlan(), layouts_of({"a": 9, "b": 9, "c": 9}))
    whole = {*possible_splits(SharePlan(), outputs, most=1000)}
    drawn = possible_splits(SharePlan(), outputs, most=50, seed=1)
    assert 49 <= len(drawn) <= 50
    assert {*drawn} < whole
    assert drawn == possible_splits(SharePlan(), outputs, most=50, seed=1)
    assert drawn != possible_splits(SharePlan(), outputs, most=50, seed=2)


def test_real_networks_take_every_split(street: ZooDeployment) -> None:
    plan = SharePlan((Share.between("det:blocks.4", "v3:blocks.4"),))
    merged = MergedModel(street.models, street.facts, plan, street.maps(plan))
    for split in possible_splits(plan, [*merged.outputs.values()], most=60):
        assert SplitParts.of(merged, split).crossing


def test_the_bytes_of_both_parts_are_those_of_the_whole(street: ZooDeployment) -> None:
    plan = canonical(SharePlan((Share.between("det:blocks.4", "v3:blocks.4"),)),
                     layouts_by_model(street.facts))  # fmt: skip
    merged = MergedModel(street.models, street.facts, plan, street.maps(plan))
    costs = CostModel(street.facts)
    for split in possible_splits(plan, [*merged.outputs.values()], most=8):
        parts = SplitParts.of(merged, split)
        own = [
            {step.makes.ref if step.makes else Ref(step.model, HEAD) for step in part.steps}
            for part in (parts.device, parts.server)
        ]
        sizes = [sum(costs.bytes_by_owner(plan, owners).values()) for owners in own]
        assert sum(sizes) == costs.bytes(plan)
