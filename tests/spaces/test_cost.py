"""The predicted costs of a plan are those of the merged module, to the byte and to the MAC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import pytest
import torch
from example_plans import EXAMPLE_PLANS, every_example_plan, share
from networks import Zoo, ZooDeployment
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spaces.cost import CostModel
from spaces.execution import ticks
from spaces.liveness import Layouts, canonical, liveness, previous_stage
from spaces.map_folding import find_fold_targets
from spaces.merged import MergedModel
from spaces.plan import HEAD, IDENTITY, Ref, Share, SharePlan

ENDS = ("donor", "recipient")
RATES = {"b0": 1.0, "v3": 7.5, "r50": 0.25, "det": 7.5}


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


def done_macs_for(models: Collection[str], deployment: ZooDeployment, module: MergedModel) -> int:
    """Return the MACs of a frame that only some of the models answer for."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        inputs = deployment.inputs(batch=1)
        module.run(module.answering(models), inputs, {}, lambda head, taps: head(taps))
    return int(counter.get_total_flops()) // 2


def models_that_need(owner: Ref, plan: SharePlan, layouts: Layouts) -> set[str]:
    """Walk back from the taps of each model by hand."""
    donors = {one.recipient: one.donor for one in plan.shares}
    needing = set()
    for name, layout in layouts.items():
        pending: list[Ref | None] = [Ref(name, HEAD), *(Ref(name, tap) for tap in layout.taps)]
        while pending:
            ref = pending.pop()
            if ref == owner:
                needing.add(name)
            if ref is not None and ref.stage != HEAD:
                pending.append(donors.get(ref) or previous_stage(ref, layouts))
    return needing


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


@pytest.mark.parametrize("kind", ["folded behind the pool", "both directions", "kept, low rank"])
def test_the_macs_of_each_owner_are_those_of_its_part(street: ZooDeployment, kind: str) -> None:
    plan = SharePlan(tuple(EXAMPLE_PLANS[kind]))
    module = merged(street, plan)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(street.inputs(batch=1))
    counts = counter.get_flop_counts()
    done = {
        owner: sum(counts.get(f"MergedModel.{path}", {}).values()) // 2
        for path, owner, _ in module.parts()
    }
    predicted = CostModel(street.facts).macs_by_owner(plan)
    assert {owner: macs for owner, macs in predicted.items() if macs} == {
        owner: macs for owner, macs in done.items() if macs
    }


@pytest.mark.parametrize(
    "kind", ["folded into two consumers", "one donor for three", "kept: donated on"]
)
def test_macs_per_second_are_those_of_the_frames_that_some_models_answer_for(
    street: ZooDeployment, kind: str
) -> None:
    plan = SharePlan(tuple(EXAMPLE_PLANS[kind]))
    module = merged(street, plan)
    done = sum(
        per_second * done_macs_for(models, street, module) for models, per_second in ticks(RATES)
    )
    predicted = CostModel(street.facts).macs_per_second(plan, RATES)
    assert predicted == pytest.approx(done, rel=1e-12)


def test_each_part_runs_at_the_highest_rate_of_the_models_that_need_it(
    street: ZooDeployment,
) -> None:
    costs = CostModel(street.facts)
    for plan in street.random_plans(40):
        expected = sum(
            macs * max(RATES[name] for name in models_that_need(owner, plan, costs.layouts))
            for owner, macs in costs.macs_by_owner(plan).items()
        )
        assert costs.macs_per_second(plan, RATES) == pytest.approx(expected, rel=1e-12), str(plan)


def test_equal_rates_multiply_the_macs_of_a_frame(street: ZooDeployment) -> None:
    costs = CostModel(street.facts)
    for plan in street.random_plans(20):
        equal = dict.fromkeys(street.facts, 0.3)
        assert costs.macs_per_second(plan, equal) == 0.3 * costs.macs(plan)


def test_a_higher_rate_never_lowers_the_macs_per_second(street: ZooDeployment) -> None:
    costs = CostModel(street.facts)
    for plan in street.random_plans(20):
        before = costs.macs_per_second(plan, RATES)
        for name, rate in RATES.items():
            for raised in (1.5 * rate, 100.0):
                assert costs.macs_per_second(plan, {**RATES, name: raised}) > before, str(plan)


def test_without_a_share_each_model_costs_its_own_rate(street: ZooDeployment) -> None:
    each = (RATES[name] * CostModel({name: f}).unmerged_macs for name, f in street.facts.items())
    costs = CostModel(street.facts)
    assert costs.macs_per_second(SharePlan(), RATES) == pytest.approx(sum(each), rel=1e-12)


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
