"""The graph whose layers compute in int8, and what its layers do in the float graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from spaces.graph_export import OnnxSession, write_onnx
from spaces.onnx_grafts import correct_biases, int8_layers, with_int8_layers
from spaces.onnx_int8 import fold_graph, layers_by_part, quantize_graph

CHANNELS = 8


class Network(torch.nn.Module):
    """Two stages as a merged model names them, and a head with a weight that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.merged: Any = torch.nn.Module()
        self.merged.stages = torch.nn.ModuleDict(
            {"a:one": self._stage(3), "a:one1": self._stage(CHANNELS)}
        )
        self.merged.heads = torch.nn.ModuleDict({"a:(head)": torch.nn.Conv2d(CHANNELS, 8, 1)})

    @staticmethod
    def _stage(channels: int) -> torch.nn.Module:
        norm = torch.nn.BatchNorm2d(CHANNELS)
        norm.bias.data.uniform_(-1, 1)
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, CHANNELS, 3, padding=1), norm, torch.nn.ReLU6()
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        stages, head = self.merged.stages, self.merged.heads["a:(head)"]
        answer: torch.Tensor = head(head(stages["a:one1"](stages["a:one"](image))))
        return answer


def frames(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.randn(1, 3, 16, 16, generator=generator)} for _ in range(count)]


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network().eval()
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    program = torch.export.export(network, (frames(1)[0]["image"],))
    names: Any = SimpleNamespace(inputs=["image"], outputs=["answer"], input_specs={"image": {}})
    write_onnx(names, program, path)
    return fold_graph(path)


@pytest.fixture(scope="module")
def quantised(folded: onnx.ModelProto) -> onnx.ModelProto:
    return quantize_graph(folded, frames(8), ())


def answers(model: onnx.ModelProto, inputs: Sequence[dict[str, torch.Tensor]]) -> np.ndarray:
    session = OnnxSession(model.SerializeToString())
    return np.stack([session.run(feed)["answer"] for feed in inputs])


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(((actual - expected) ** 2).mean() / expected.var()))


def test_layers_have_the_names_of_their_stages(folded: onnx.ModelProto) -> None:
    parts = layers_by_part(folded, ["stages.a:one", "stages.a:one1", "heads.a:(head)", "x"])
    assert [*parts] == ["stages.a:one", "stages.a:one1", "heads.a:(head)"]
    assert [len(names) for names in parts.values()] == [1, 1, 2]


def test_activations_weights_and_biases_are_integers(
    folded: onnx.ModelProto, quantised: onnx.ModelProto
) -> None:
    operators = Counter(node.op_type for node in quantised.graph.node)
    assert operators["Conv"] == 4 and not operators["Clip"] and operators["QuantizeLinear"] >= 4
    assert len(int8_layers(quantised)) == 4
    types = {tensor.data_type for tensor in quantised.graph.initializer if len(tensor.dims) > 1}
    assert types == {TensorProto.INT8}
    assert {entry.key for entry in quantised.metadata_props} == {"merge_search.inputs"}
    assert {entry.domain for entry in quantised.opset_import} <= {"", "ai.onnx.ml"}
    assert relative_error(answers(quantised, frames(8)), answers(folded, frames(8))) < 0.05


def test_excluded_layers_stay_in_float(folded: onnx.ModelProto) -> None:
    head = layers_by_part(folded, ["heads.a:(head)"])["heads.a:(head)"]
    assert len(int8_layers(quantize_graph(folded, frames(2), head))) == 2


def test_corrected_biases_take_up_the_mean_error(folded: onnx.ModelProto) -> None:
    """After a change of the biases in the int8 graph, the correction restores the means."""
    model = quantize_graph(folded, frames(8), ())
    expected = answers(model, frames(8))
    first = next(iter(int8_layers(model).values()))
    assert first.bias is not None
    stored = next(t for t in model.graph.initializer if t.name == first.bias.input[0])
    moved = (numpy_helper.to_array(stored) + 20_000).astype(np.int32)
    stored.CopyFrom(numpy_helper.from_array(moved, name=stored.name))
    assert relative_error(answers(model, frames(8)), expected) > 0.2
    correct_biases(folded, model, frames(8))
    assert relative_error(answers(model, frames(8)), expected) < 0.01


def test_layers_in_the_float_graph_add_up_to_the_int8_graph(
    folded: onnx.ModelProto, quantised: onnx.ModelProto
) -> None:
    expected, names = answers(folded, frames(4)), [*int8_layers(quantised)]
    none, one, every = (
        answers(with_int8_layers(folded, quantised, some), frames(4))
        for some in ([], names[:1], names)
    )
    assert np.array_equal(none, expected)
    assert 0 < relative_error(one, expected) < relative_error(every, expected) * 1.5
    assert relative_error(every, answers(quantised, frames(4))) < 0.02


def test_a_layer_without_a_bias_needs_no_correction(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "merged.stages.a:one.weight")
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])
        for name in ("image", "answer")
    ]
    node = helper.make_node("MatMul", ["image", weight.name], ["answer"], "product")
    graph = helper.make_graph([node], "graph", shapes[:1], shapes[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    feeds = [{"image": torch.tensor([[0.0, 1.0, 2.0, 3.0]])}]
    quantised = quantize_graph(model, feeds, ())
    assert [layer.bias for layer in int8_layers(quantised).values()] == [None]
    assert answers(quantised, feeds) == pytest.approx(answers(model, feeds), abs=0.02)


def test_operations_with_equal_names_all_stay(folded: onnx.ModelProto) -> None:
    """onnxruntime unrolls functions such as HardSwish into operations that share names."""
    unnamed = onnx.ModelProto()
    unnamed.CopyFrom(folded)
    (output,) = unnamed.graph.output
    for k, (kind, read) in enumerate([("Neg", output.name), ("Neg", "first"), ("Abs", "second")]):
        made = ("first", "second", "third")[k]
        unnamed.graph.node.append(helper.make_node(kind, [read], [made], name=""))
    output.name = "third"
    quantised = quantize_graph(unnamed, frames(4), ())
    every = with_int8_layers(unnamed, quantised, [*int8_layers(quantised)])
    session = OnnxSession(every.SerializeToString())
    assert session.run(frames(1)[0])["third"].shape == (1, 8, 16, 16)
