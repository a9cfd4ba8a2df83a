"""Which representations are equal in two models, from their weights, inputs and structure."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny import CLASSIFIER, Weights, load_tiny

from search.statistics.observed import Observed
from spaces.cost import CostModel
from spaces.deployment import Deployment
from spaces.inputs import Frame
from spaces.merged import MergedModel, prepare_inputs
from spaces.model_facts import collect_facts
from spaces.plan import IDENTITY, LINEAR, Ref, Share, SharePlan
from spaces.prefixes import find_identical, prefix_hashes
from spaces.shares import Pair, find_pairs
from spaces.stages import StagedModel


@pytest.fixture
def two(weights: Weights) -> dict[str, StagedModel]:
    """Two copies of one network that a test may change."""
    return load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 1)})


def equal_stages(models: dict[str, StagedModel]) -> list[str]:
    """Return the stages of b that a holds too; a stage may equal only its namesake."""
    pairs = find_identical(models, find_pairs(collect_facts(models)).legal)
    assert all(pair.donor.stage == pair.recipient.stage for pair in pairs)
    return [s for s in models["b"].layout.stages if Pair(Ref("a", s), Ref("b", s)) in pairs]


def test_two_copies_are_equal_in_all_stages(two: dict[str, StagedModel]) -> None:
    assert equal_stages(two) == [*two["b"].layout.stages]


@torch.no_grad()
def test_one_changed_weight_ends_the_equality_from_its_stage_on(
    two: dict[str, StagedModel],
) -> None:
    for number, stage in reversed([*enumerate(two["b"].stages)]):
        weight = next(stage.parameters(), None)
        if weight is not None:
            weight[..., -1] += 1e-6
            assert equal_stages(two) == [*two["b"].layout.stages[:number]]


def test_the_counter_of_batches_does_not_matter(two: dict[str, StagedModel]) -> None:
    for name, tensor in two["b"].state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor += 5
    assert equal_stages(two) == [*two["b"].layout.stages]


def test_another_input_makes_all_stages_differ(two: dict[str, StagedModel]) -> None:
    two["b"].input = replace(two["b"].input, channels="bgr")
    assert equal_stages(two) == []


def test_modules_of_unknown_origin_are_never_equal(two: dict[str, StagedModel]) -> None:
    two["a"].source = two["b"].source = None
    assert equal_stages(two) == []


def test_the_hash_does_not_depend_on_the_device_or_the_memory_format(
    two: dict[str, StagedModel],
) -> None:
    other = copy.deepcopy(two["a"]).to(memory_format=torch.channels_last)
    assert prefix_hashes(other) == prefix_hashes(two["a"])


def test_equal_representations_are_shared_as_they_are(copies: Observed) -> None:
    shares = copies.deployment.shares([LINEAR])
    for share in shares:
        same = share.donor.stage == share.recipient.stage
        assert share.adapter == (IDENTITY if same else LINEAR)
    assert len(shares) == len(copies.deployment.pairs.legal)


def test_without_equal_stages_the_shares_are_those_of_all_pairs(pair: Observed) -> None:
    deployment = pair.deployment
    assert deployment.identical_pairs == frozenset()
    shares = deployment.shares([IDENTITY, LINEAR])
    assert len(shares) > len(deployment.pairs.legal)
    assert [s for s in shares if s.adapter == LINEAR] == [*deployment.shares([LINEAR])]


@torch.no_grad()
def test_copies_that_share_their_last_stage_hold_one_backbone_and_answer_exactly_the_same(
    copies: Observed,
) -> None:
    deployment: Deployment = copies.deployment
    last = deployment.facts["b"].layout.stages[-1]
    plan = SharePlan((Share(Ref("b", last), Ref("a", last), IDENTITY),))
    assert set(plan.shares) <= set(deployment.shares([LINEAR]))
    merged = MergedModel(deployment.models, deployment.facts, plan, {})
    frames: list[Frame] = [copies.held_out[0], copies.held_out[1]]
    inputs = prepare_inputs(deployment.models, frames)
    answers = merged(inputs)
    for name, model in deployment.models.items():
        assert torch.equal(answers[name], model(inputs[name]))
    facts = deployment.facts
    assert merged.inputs_read == {"a"}
    backbone = sum(sum(facts["b"].tensors[s].values()) for s in facts["b"].layout.stages)
    costs = CostModel(facts)
    assert costs.bytes(plan) == costs.unmerged_bytes - backbone
