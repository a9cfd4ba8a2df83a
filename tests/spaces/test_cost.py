"""The predicted costs of a plan are those of the merged module, to the byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from example_plans import every_example_plan, share
from networks import Zoo, ZooDeployment
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spaces.cost import CostModel
from spaces.liveness import canonical, liveness
from spaces.map_folding import find_fold_targets
from spaces.merged import MergedModel
from spaces.plan import IDENTITY, Share, SharePlan

ENDS = ("donor", "recipient")


def merged(deployment: ZooDeployment, plan: SharePlan) -> MergedModel:
    return MergedModel(deployment.models, deployment.facts, plan, deployment.maps(plan))


def held_bytes(module: nn.Module) -> int:
    """Sum the bytes of every distinct parameter and buffer of the module."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def stored_bytes(module: nn.Module) -> int:
    """Sum the bytes of the storages: a small view keeps all of a large storage in memory."""
    storages = [t.untyped_storage() for t in (*module.parameters(), *module.buffers())]
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.nbytes()}.values())


def done_macs(deployment: ZooDeployment, module: MergedModel) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(deployment.inputs(batch=1))
    return int(counter.get_total_flops()) // 2


@every_example_plan
def test_predicted_bytes_of_the_example_plans_are_those_of_the_module(
    street: ZooDeployment, shares: list[Share]
) -> None:
    plan = SharePlan(tuple(shares))
    module = merged(street, plan)
    predicted = CostModel(street.facts).bytes(plan)
    assert predicted == held_bytes(module) == stored_bytes(module)


@every_example_plan
def test_predicted_macs_of_the_example_plans_are_those_of_the_module(
    street: ZooDeployment, shares: list[Share]
) -> None:
    plan = SharePlan(tuple(shares))
    assert CostModel(street.facts).macs(plan) == done_macs(street, merged(street, plan))


def test_the_random_plans_cover_every_kind(street: ZooDeployment) -> None:
    kinds: Counter[str] = Counter()
    layouts = CostModel(street.facts).layouts
    for plan in street.random_plans(60):
        live = liveness(plan, layouts)
        donors, recipients = ({getattr(s, end) for s in live.shares} for end in ENDS)
        kinds["chained"] += bool(donors & recipients)
        kinds["has dead shares"] += len(live.shares) < len(plan.shares)
        for one in live.shares:
            folds = not find_fold_targets(one, live, street.facts).refusal
            rank = "low rank" if one.adapter.rank else "full rank"
            kinds[f"{one.adapter.kind} {rank} {'folded' if folds else 'kept'}"] += 1
    assert len(kinds) == 7 and min(kinds.values()) >= 3, kinds


def test_predicted_bytes_of_random_plans_are_those_of_the_module(street: ZooDeployment) -> None:
    costs = CostModel(street.facts)
    for plan in street.random_plans(60):
        module = merged(street, plan)
        assert costs.bytes(plan) == held_bytes(module) == stored_bytes(module), str(plan)


def test_predicted_macs_of_random_plans_are_those_of_the_module(street: ZooDeployment) -> None:
    costs = CostModel(street.facts)
    for plan in street.random_plans(15):
        assert costs.macs(plan) == done_macs(street, merged(street, plan)), str(plan)


def test_equivalent_plans_cost_the_same(street: ZooDeployment) -> None:
    costs = CostModel(street.facts)
    for plan in street.random_plans(100):
        same = canonical(plan, costs.layouts)
        assert (costs.bytes(plan), costs.macs(plan)) == (costs.bytes(same), costs.macs(same))


def test_unmerged_costs_are_the_sums_over_the_models(zoo: Zoo, street: ZooDeployment) -> None:
    costs = CostModel(street.facts)
    each = [CostModel({name: fact}) for name, fact in street.facts.items()]
    assert costs.unmerged_bytes == sum(one.unmerged_bytes for one in each)
    assert costs.unmerged_macs == sum(one.unmerged_macs for one in each)
    assert CostModel({"net": zoo.facts("timm/resnet50")}).unmerged_bytes == (
        zoo.original("timm/resnet50").bytes
    )


@pytest.mark.parametrize(
    ("arch", "last"),
    [("timm/tf_efficientnet_lite0", ["pool"]), ("effdet/tf_efficientdet_lite0", [2, 4, 6])],
)
def test_two_copies_that_share_all_stages_cost_half_apart_from_their_heads(
    two_copies: Callable[[str], ZooDeployment], arch: str, last: list[str | int]
) -> None:
    pair = two_copies(arch)
    taps = [f"blocks.{tap}" if isinstance(tap, int) else tap for tap in last]
    plan = SharePlan(tuple(share(f"left:{t}", f"right:{t}", IDENTITY) for t in taps))
    costs, one_model = CostModel(pair.facts), pair.facts["left"]
    trunk = sum(stage.bytes for stage in one_model.stages)
    assert costs.unmerged_bytes == 2 * (trunk + one_model.head_bytes)
    assert costs.bytes(plan) == trunk + 2 * one_model.head_bytes
    assert (
        costs.macs(plan) == sum(stage.macs for stage in one_model.stages) + 2 * one_model.head_macs
    )
