"""Fusing BatchNorms keeps every representation of every supported network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import Zoo, every_network, relative_error
from torch import Tensor, nn

from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.inputs import InputSpec
from spaces.stages import Layout, StagedModel, total_bytes, unique_tensors


def count_batchnorms(model: StagedModel) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in model.stages.modules())


@every_network
@torch.no_grad()
def test_every_representation_and_the_output_stay_the_same(zoo: Zoo, arch: str) -> None:
    model = zoo.model(arch)
    fused, inputs = fuse_batchnorms(model), zoo.original(arch).inputs
    for (name, actual), (_, expected) in zip(fused.walk(inputs), model.walk(inputs), strict=True):
        assert relative_error(actual, expected) < 1e-4, name
    assert relative_error(fused(inputs), model(inputs)) < 1e-3


@every_network
def test_the_copy_has_no_batchnorm_and_the_model_keeps_its_own(zoo: Zoo, arch: str) -> None:
    model = zoo.model(arch)
    batchnorms, size = count_batchnorms(model), total_bytes(unique_tensors(model))
    fused = fuse_batchnorms(model)
    assert count_batchnorms(fused) == 0 < batchnorms
    assert (count_batchnorms(model), total_bytes(unique_tensors(model))) == (batchnorms, size)
    assert not {id(t) for t in unique_tensors(fused)} & {id(t) for t in unique_tensors(model)}


class Stage(nn.Module):
    """A convolution and a BatchNorm of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        nn.init.normal_(self.norm.weight)
        self.norm.running_mean = torch.randn(3)


class Plain(Stage):
    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed


class ReadTwice(Stage):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        normed: Tensor = self.norm(result)
        return result + normed


class RunTwice(Stage):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(self.norm(self.conv(x)))
        return result


class Standardised(nn.Conv2d):
    """A convolution that does not use its weight directly."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._conv_forward(x, self.weight - self.weight.mean(), self.bias)
        return result


class ComputedWeight(Stage):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Standardised(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed


class BatchStatistics(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)


def chain(stage: nn.Module) -> StagedModel:
    spec = InputSpec(32, 32, (0.0,) * 3, (1.0,) * 3, "squash")
    head: Any = nn.Identity()
    return StagedModel(
        Layout("net", ("s",), ("s",)), [stage], head, spec, "classification", 3
    ).eval()


@pytest.mark.parametrize(
    ("stage", "remaining"),
    [(Plain, 0), (ReadTwice, 1), (RunTwice, 1), (ComputedWeight, 1), (BatchStatistics, 1)],
)
@torch.no_grad()
def test_a_stage_is_fused_only_if_its_output_stays_the_same(
    stage: type[nn.Module], remaining: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = chain(stage())
    fused = fuse_batchnorms(model)
    assert count_batchnorms(fused) == remaining and fused.chunk_size is not None
    (_, actual), (_, expected) = (
        next(fused.walk(model.example_input())),
        next(model.walk(model.example_input())),
    )
    assert relative_error(actual, expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 4, 9])
def test_running_in_chunks_gives_the_output_of_the_whole_batch(zoo: Zoo, batch: int) -> None:
    model, fused = (
        zoo.model("timm/mobilenetv2_100"),
        fuse_batchnorms(zoo.model("timm/mobilenetv2_100")),
    )
    inputs = model.example_input(batch)
    for (_, actual), (_, expected) in zip(fused.walk(inputs), model.walk(inputs), strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < 1e-4


def test_a_copy_built_in_inference_mode_supports_gradients() -> None:
    model = chain(Plain())
    with torch.inference_mode():
        fused = fuse_batchnorms(model)
    inputs = model.example_input().requires_grad_()
    _, representation = next(fused.walk(inputs))
    (slope,) = torch.autograd.grad(representation.square().sum(), inputs)
    assert slope.isfinite().all() and slope.any()
