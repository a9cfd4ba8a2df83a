"""Operations that overwrite their input are replaced where that changes no answer."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from spaces.in_place_operations import replace_in_place


class Chain(nn.Module):
    """Each operation overwrites what only it reads."""

    overwriting = 0

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(x * 2, inplace=True)
        return nn.functional.silu(y + 1, inplace=True).mul_(3)


class ReadAgain(nn.Module):
    """Another operation reads a tensor before it is overwritten."""

    overwriting = 1

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        before = y + 1
        return before * nn.functional.relu6(y, inplace=True)


class PartOverwritten(nn.Module):
    """A view is overwritten, and so the tensor behind it."""

    overwriting = 1

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y[:, :1].relu_()
        return y + 1


class GivenInput(nn.Module):
    """The caller's tensor is overwritten."""

    overwriting = 1

    def forward(self, x: Tensor) -> Tensor:
        return x.relu_() + 1


@pytest.mark.parametrize("network", [Chain(), ReadAgain(), PartOverwritten(), GivenInput()])
def test_answers_stay_the_same_without_operations_that_need_not_overwrite(
    network: nn.Module,
) -> None:
    example = torch.linspace(-4, 4, 12).reshape(3, 4)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    replace_in_place(program)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert Counter("_." in name for name in names)[True] == network.overwriting
    one, other = torch.randn(2, 4), torch.randn(5, 4)
    for inputs in (one, other):
        ours, expected = inputs.clone(), inputs.clone()
        assert torch.equal(program.module()(ours), network(expected))
        assert torch.equal(ours, expected)
    again = program.run_decompositions()
    torch.testing.assert_close(again.module()(one.clone()), network(one.clone()))
