"""Predicted activation memory is that of the real merged model, to the byte and at every step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from example_plans import every_example_plan
from measured_activations import check_activations, peaks_of
from networks import ZooDeployment
from tiny import shares_in
from torch import Tensor, nn

from search.statistics.observed import Observed
from spaces.activations import ActivationLedger, AllocationTracker, Footprint, run_with_footprint
from spaces.cost import CostModel
from spaces.liveness import canonical
from spaces.merged import MergedModel
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Ref, Share, SharePlan

FLOAT = 4
IMAGE, WEIGHT = torch.zeros(1, 3, 8, 8), torch.zeros(2, 3)


def net(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


CALLS: dict[str, tuple[Callable[[Tensor], object], int, int]] = {
    "nothing": (lambda x: x, 0, 0),
    "a view": (lambda x: x[:, :1].flatten(1), 0, 0),
    "one tensor": (lambda x: x + 1, 192, 192),
    "two at once": (lambda x: (x + 1) + 1, 2 * 192, 192),
    "one after another": (lambda x: (x + 1).sum() + (x + 2).sum(), 192 + 2, 1),
    "both kept": (lambda x: (x + 1, x + 2), 2 * 192, 2 * 192),
    "in place": (lambda x: (x + 1).relu_().mul_(2), 192, 192),
    "a view keeps all that it is a view of": (lambda x: (x + 1)[:, :1], 192, 192),
    "a convolution": (net(nn.Conv2d(3, 5, 3, padding=1)), 5 * 64, 5 * 64),
    "its weights are not counted, nor their views": (
        lambda x: nn.functional.conv2d(x, WEIGHT[:, :, None, None]),
        2 * 64,
        2 * 64,
    ),
    "layers": (
        net(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 1)),
        2 * 8 * 64,
        2 * 64,
    ),
    "a classifier": (
        net(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        8 * 64 + 8,
        4,
    ),
}
"""Modules called on 3 x 8 x 8 numbers, the peak of live numbers, and the numbers of the output."""


@pytest.mark.parametrize(("call", "peak", "output"), CALLS.values(), ids=CALLS.keys())
def test_a_footprint_equals_the_count_by_hand(
    call: Callable[[Tensor], object], peak: int, output: int
) -> None:
    _, footprint = run_with_footprint(call, IMAGE)
    assert footprint == Footprint(FLOAT * peak, FLOAT * output)


def test_a_tensor_counts_until_its_last_reference_is_deleted() -> None:
    with AllocationTracker() as alive:
        one = torch.zeros(10)
        part = one[:2]
        del one
        assert alive.live_bytes == 40
        del part
        assert alive.live_bytes == 0
        assert torch.ones(5).sum() == 5
    assert (alive.live_bytes, alive.peak) == (0, 40)


def test_many_short_lived_tensors_leave_no_bytes() -> None:
    with AllocationTracker() as alive:
        for size in range(1, 200):
            torch.zeros(size)
    assert (alive.live_bytes, alive.peak) == (0, 199 * FLOAT)


@pytest.mark.parametrize(("peak", "output"), [(1, 2), (0, -1), (-1, -1)])
def test_a_footprint_cannot_hold_more_than_its_peak(peak: int, output: int) -> None:
    with pytest.raises(ValueError, match="held must lie"):
        Footprint(peak, output)


def test_a_view_keeps_its_base_alive_in_a_ledger() -> None:
    memory = ActivationLedger()
    memory.add("input", 100)
    assert memory.run("a", "input", Footprint(30, 20)) == 130
    assert memory.run("view", "a", Footprint(5, 0)) == 125
    memory.free("input")
    memory.free("a")
    assert memory.live_bytes == 20
    memory.run("view of a view", "view", Footprint(0, 0))
    memory.free("view")
    assert memory.live_bytes == 20
    memory.free("view of a view")
    assert memory.live_bytes == 0


@every_example_plan
def test_predicted_activations_of_the_example_plans_are_the_measured_ones(
    street: ZooDeployment, shares: list[Share]
) -> None:
    plan = SharePlan(tuple(shares))
    check_activations(street.models, street.facts, plan, street.maps(plan))


def test_predicted_activations_of_random_plans_are_the_measured_ones(
    street: ZooDeployment,
) -> None:
    for plan in street.random_plans(15):
        check_activations(street.models, street.facts, plan, street.maps(plan))


@pytest.mark.parametrize("adapter", [IDENTITY, LINEAR, AdapterSpec("linear", 3)], ids=str)
def test_predicted_activations_with_fitted_maps_are_the_measured_ones(
    mixed: Observed, adapter: AdapterSpec
) -> None:
    deployment = mixed.deployment
    shares = shares_in(mixed, adapter)
    for share in shares[:: max(1, len(shares) // 12)]:
        plan = SharePlan((share,))
        check_activations(deployment.models, deployment.facts, plan, mixed.maps_for([plan]))


def test_activations_grow_with_the_frames_of_a_batch(
    two_copies: Callable[[str], ZooDeployment],
) -> None:
    pair = two_copies("timm/resnet18")
    plan = SharePlan((share("left:layer2", "right:layer2"), share("left:pool", "right:pool")))
    merged = MergedModel(pair.models, pair.facts, plan, pair.maps(plan))
    predicted = [peak for _, peak in CostModel(pair.facts).activations(plan)]
    assert peaks_of(merged, pair.inputs(batch=3)) == [3 * peak for peak in predicted]


def share(donor: str, recipient: str, adapter: AdapterSpec = LINEAR) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor), adapter)


def test_two_copies_that_share_all_stages_need_one_input_fewer(
    two_copies: Callable[[str], ZooDeployment],
) -> None:
    pair = two_copies("timm/tf_efficientnet_lite0")
    costs = CostModel(pair.facts)
    plan = SharePlan((share("left:pool", "right:pool", IDENTITY),))
    own = CostModel({"left": pair.facts["left"]}).unmerged_activation
    assert pair.facts["right"].input_bytes == FLOAT * 3 * 96 * 96
    assert costs.unmerged_activation == own + pair.facts["right"].input_bytes
    assert costs.activation(plan) == own


def test_the_peak_is_at_least_any_representation_and_the_sum_of_the_inputs(
    street: ZooDeployment,
) -> None:
    costs = CostModel(street.facts)
    inputs = sum(fact.input_bytes for fact in street.facts.values())
    assert costs.unmerged_activation >= inputs
    for fact in street.facts.values():
        for stage in fact.stages:
            size = FLOAT * torch.Size(stage.shape).numel()
            assert stage.footprint.held == size <= stage.footprint.peak, stage
            assert costs.unmerged_activation >= size


def test_equivalent_plans_have_the_same_activations(street: ZooDeployment) -> None:
    costs = CostModel(street.facts)
    for plan in street.random_plans(50):
        assert costs.activations(plan) == costs.activations(canonical(plan, costs.layouts))
