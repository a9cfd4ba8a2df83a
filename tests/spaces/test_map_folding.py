"""Folding a map keeps the outputs, and is refused where it would change them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import Zoo, ZooDeployment, raw_maps, relative_error
from torch import Tensor, nn

from spaces.adapters import LinearMap, build_adapter, resize
from spaces.consumers import Consumers, find_consumers, fold_into_layer
from spaces.errors import BadPlan
from spaces.liveness import liveness
from spaces.map_folding import FoldTargets, find_fold_targets
from spaces.merged import MergedModel
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.plan import HEAD, IDENTITY, LINEAR, AdapterSpec, Ref, Share, SharePlan
from spaces.plan_set import PlanSet


def share(donor: str, recipient: str, adapter: AdapterSpec = LINEAR) -> Share:
    return Share(Ref.parse(recipient), Ref.parse(donor), adapter)


def fold(facts: dict[str, ModelFacts], target: Share, *others: Share) -> FoldTargets:
    plan = SharePlan((target, *others))
    return find_fold_targets(target, liveness(plan, layouts_by_model(facts)), facts)


def consumers_of(module: nn.Module, *shape: int) -> Consumers:
    watched = torch.randn(1, *(shape or (4, 6, 6)))
    return find_consumers("next", module.eval(), watched, watched)


# --- one layer -----------------------------------------------------------------------------


@given(
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_a_folded_convolution_computes_the_map_and_the_convolution(
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    donor, recipient, out = channels
    layer = nn.Conv2d(recipient, out, kernel, stride, dilation=dilation, bias=bias).double()
    weight, shift = torch.randn(recipient, donor).double(), torch.randn(recipient).double()
    donated = torch.randn(2, donor, 7, 8).double()
    mapped = F.conv2d(donated, weight[:, :, None, None], shift)
    torch.testing.assert_close(fold_into_layer(layer, weight, shift)(donated), layer(mapped))


@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 1000))
@torch.no_grad()
def test_a_folded_linear_layer_computes_the_map_and_the_layer(
    donor: int, recipient: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(recipient, 5, bias).double()
    weight, shift = torch.randn(recipient, donor).double(), torch.randn(recipient).double()
    donated = torch.randn(2, donor).double()
    mapped = F.linear(donated, weight, shift)
    torch.testing.assert_close(fold_into_layer(layer, weight, shift)(donated), layer(mapped))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(inputs) + inputs)


class Twice(nn.Module):
    """A layer that reads the representation and another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(self.conv(inputs)))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1, stride=2, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.one(inputs).sum() + self.other(inputs))


class Scaled(nn.Conv2d):
    """A layer with a computed weight: no map folds into it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return F.conv2d(inputs, self.weight / self.weight.std(), self.bias)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Conv2d(4, 4, 3, groups=4), "grouped or depthwise"),
        (lambda: nn.Conv2d(4, 4, 3, groups=2), "grouped or depthwise"),
        (lambda: nn.Conv2d(4, 4, 3, padding=1), "zero padding"),
        (lambda: nn.Conv2d(4, 4, 3, padding="same"), "zero padding"),
        (lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3)), "with pad"),
        (lambda: nn.BatchNorm2d(4), "with batch_norm"),
        (lambda: nn.ReLU(), "with relu"),
        (lambda: nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)), "with "),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 2)), "with flatten"),
        (Residual, "with add"),
        (lambda: Scaled(4, 4, 1), "with conv2d"),
        (Twice, "more than once"),
    ],
)
def test_a_consumer_that_no_map_folds_into_has_a_reason(
    make: Callable[[], nn.Module], reason: str
) -> None:
    result = consumers_of(make())
    assert result.foldable == () and reason in result.refusal


@pytest.mark.parametrize(
    ("make", "paths"),
    [
        (lambda: nn.Conv2d(4, 4, 1), [""]),
        (lambda: nn.Conv2d(4, 4, 3, padding="valid"), [""]),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), ["0"]),
        (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), ["2"]),
        (lambda: nn.Sequential(nn.Dropout(0.5), nn.Conv2d(4, 4, 1)), ["1"]),
        (Branches, ["one", "other"]),
    ],
)
def test_consumers_behind_operations_that_commute_with_a_map_are_found(
    make: Callable[[], nn.Module], paths: list[str]
) -> None:
    result = consumers_of(make())
    assert [consumer.path for consumer in result.foldable] == paths
    assert not result.refusal and not result.passes


def test_a_pool_passes_its_input_on() -> None:
    result = consumers_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert result == Consumers((), passes=True)


# --- adapters ------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(6, 6), (3, 3), (8, 8), (4, 5), (1, 1), None])
@torch.no_grad()
def test_the_resize_commutes_with_a_map(grid: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    donated, weight = torch.randn(2, 4, 6, 6).double(), torch.randn(3, 4).double()
    mapped = resize(torch.einsum("rd,bdhw->brhw", weight, donated), grid)
    resized = torch.einsum("rd,bd...->br...", weight, resize(donated, grid))
    torch.testing.assert_close(mapped, resized)
    assert resized.shape == ((2, 3) if grid is None else (2, 3, *grid))


def test_the_resize_keeps_constants_and_tensors_on_the_same_grid() -> None:
    constant = torch.full((1, 2, 6, 6), 3.0)
    for grid in ((6, 6), (3, 3), (12, 12), (2, 5), None):
        assert torch.allclose(resize(constant, grid), torch.tensor(3.0))
    assert resize(constant, (6, 6)) is constant


@given(st.integers(1, 7), st.integers(0, 1000))
def test_a_low_rank_map_is_the_best_approximation_of_its_rank(rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    linear = LinearMap(torch.randn(7, 9).double(), torch.zeros(7).double())
    up, down = linear.low_rank(rank)
    assert (up.shape, down.shape) == ((7, rank), (rank, 9))
    # Eckart-Young: the squared error is the sum of the squared singular values that are dropped.
    values = torch.linalg.svdvals(linear.weight)
    torch.testing.assert_close(
        (linear.weight - up @ down).square().sum(), values[rank:].square().sum()
    )


def test_a_map_with_shapes_that_do_not_fit_is_refused() -> None:
    for weight, bias in ((torch.ones(3), torch.ones(3)), (torch.ones(3, 2), torch.ones(2))):
        with pytest.raises(BadPlan, match="linear map: weight"):
            LinearMap(weight, bias)


def test_a_linear_share_without_a_map_is_refused(street: ZooDeployment) -> None:
    unfoldable, foldable = share("det:stem", "b0:stem"), share("det:blocks.6", "b0:blocks.6")
    with pytest.raises(BadPlan, match="no linear map was fitted"):
        build_adapter(unfoldable, None, (4, 4))
    for one in (unfoldable, foldable):
        with pytest.raises(BadPlan, match="no linear map was fitted"):
            MergedModel(street.models, street.facts, SharePlan((one,)), {})


# --- networks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("donor", "recipient", "paths_expected"),
    [
        ("det:blocks.4", "b0:blocks.4", ["blocks.5/0.conv_pw"]),
        ("b0:blocks.6", "det:blocks.6", ["(head)/"] * 3),
        ("b0:blocks.4", "det:blocks.4", ["blocks.5/0.conv_pw", "(head)/", "(head)/"]),
        ("b0:layer", "r50:layer1", ["layer2/0.conv1", "layer2/0.downsample.0"]),
        ("b0:layer", "r50:stem", ["layer1/0.conv1", "layer1/0.downsample.0"]),
        ("det:blocks.6", "b0:conv_head", ["(head)/"]),
        ("det:blocks.6", "b0:pool", ["(head)/"]),
        ("b0:pool", "v3:pool", ["conv_head/"]),
        ("b0:blocks.6", "v3:blocks.6", ["conv_head/"]),
    ],
)
def test_a_map_folds_into_all_consumers_of_the_recipient(
    street: ZooDeployment, donor: str, recipient: str, paths_expected: list[str]
) -> None:
    result = fold(street.facts, share(donor.replace("layer", "blocks.2"), recipient))
    assert not result.refusal
    places = [f"{consumer.owner}/{consumer.path}" for consumer in result.consumers]
    assert len(places) == len(set(places)) == len(paths_expected)
    for expected in paths_expected:
        assert any(place.startswith(expected) for place in places), places


def test_a_map_in_front_of_a_depthwise_convolution_is_kept(street: ZooDeployment) -> None:
    result = fold(street.facts, share("det:stem", "b0:stem"))
    assert "depthwise" in result.refusal and not result.consumers


def test_a_map_in_front_of_a_padded_convolution_is_kept(zoo: Zoo, street: ZooDeployment) -> None:
    facts = street.facts | {"r18": zoo.facts("timm/resnet18", "r18")}
    result = fold(facts, share("b0:blocks.2", "r18:layer2"))
    assert "zero padding" in result.refusal and not result.consumers


def test_a_map_to_a_representation_that_is_a_donor_is_kept(street: ZooDeployment) -> None:
    first, onward = share("det:blocks.4", "b0:blocks.4"), share("b0:blocks.4", "v3:blocks.4")
    assert "itself a donor" in fold(street.facts, first, onward).refusal
    assert not fold(street.facts, onward, first).refusal
    pooled = share("b0:pool", "v3:pool")
    result = fold(street.facts, share("det:blocks.6", "b0:conv_head"), pooled)
    assert "b0:pool is itself a donor" in result.refusal


def test_a_map_does_not_fold_into_dead_consumers(street: ZooDeployment) -> None:
    tap, after = share("b0:blocks.4", "det:blocks.4"), share("b0:blocks.5", "det:blocks.5")
    assert {consumer.owner for consumer in fold(street.facts, tap, after).consumers} == {HEAD}


def test_an_identity_share_folds_nothing(street: ZooDeployment) -> None:
    result = fold(street.facts, share("det:blocks.4", "b0:blocks.4", IDENTITY))
    assert result.refusal and not result.consumers


LOW = AdapterSpec("linear", 5)


@pytest.mark.parametrize(
    "shares",
    [
        [share("det:blocks.4", "b0:blocks.4")],
        [share("det:blocks.4", "b0:blocks.4", LOW)],
        [share("r50:layer3", "b0:blocks.4")],
        [share("det:blocks.6", "b0:conv_head")],
        [share("det:blocks.6", "b0:pool")],
        [share("b0:pool", "v3:pool")],
        [share("det:blocks.6", "v3:blocks.6")],
        [share("b0:blocks.2", "r50:layer1")],
        [share("b0:blocks.1", "r50:stem", LOW)],
        [share("b0:blocks.2", "det:blocks.2")],
        [share("v3:blocks.4", "det:blocks.4"), share("b0:blocks.6", "det:blocks.6")],
        [share("b0:blocks.2", "det:blocks.2"), share("det:blocks.6", "b0:conv_head", LINEAR)],
    ],
    ids=lambda shares: str(SharePlan(tuple(shares))),
)
@torch.no_grad()
def test_folded_and_kept_maps_give_the_same_outputs(
    street: ZooDeployment, shares: list[Share]
) -> None:
    plan = SharePlan(tuple(shares))
    maps, inputs = street.maps(plan), street.inputs()
    with raw_maps(street.models):
        merged = MergedModel(street.models, street.facts, plan, maps)
        result = merged(inputs)
        plan_set = PlanSet(street.models, street.facts, [plan], maps)
        expected = {output[0]: answer for output, answer in plan_set.answers(inputs)}
        originals = {name: model(inputs[name]) for name, model in street.models.items()}
    assert any(not fold(street.facts, one, *shares).refusal for one in shares)
    assert not list(merged.adapters.parameters()), "every map is folded"
    for name, answer in result.items():
        assert relative_error(answer, expected[name]) < 1e-4, name
    for name in {one.recipient.model for one in shares}:
        assert relative_error(result[name], originals[name]) > 1e-2, "the map changes the output"
