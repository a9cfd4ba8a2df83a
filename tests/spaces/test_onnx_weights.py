"""Weights in fewer bytes, as an ONNX graph reads them."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from spaces.onnx_weights import optimize_graph
from spaces.plan import Precision
from spaces.precision import store_weights


class ReadTwice(nn.Module):
    """A head as detectors have them, with layers that several levels share."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.pointwise = nn.Conv2d(8, 8, 1)

    def forward(self, level: Tensor) -> Tensor:
        for _ in range(2):
            level = self.pointwise(self.depthwise(level))
        return level


def exported_operators(precision: Precision) -> Counter[str]:
    head = ReadTwice().eval()
    store_weights(head, precision, "head")
    program = torch.export.export(head, (torch.randn(1, 8, 6, 6),))
    exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    assert exported is not None
    optimize_graph(exported.model)
    assert not any(node.metadata_props for node in exported.model.graph)
    return Counter(node.op_type for node in exported.model.graph)


def test_a_weight_that_is_read_twice_is_dequantised_once() -> None:
    assert exported_operators("int8") == {"DequantizeLinear": 2, "Conv": 4}


def test_small_weights_in_half_precision_are_not_folded() -> None:
    assert exported_operators("float16") == {"Cast": 4, "Conv": 4}
