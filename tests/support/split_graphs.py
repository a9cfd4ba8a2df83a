"""A small merged model in ONNX: whole, and cut into a trunk, tails and models by themselves.

Model `a` classifies by two of its stages; `b` takes its representation from the second of them and
also reads frames of its own. The graphs have the names, inputs and outputs of an export.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EARLY, SHARED = "a/blocks.0", "a/blocks.1"
FRAMES = {"a_input": (3, 12, 16), "b_input": (1, 8, 8)}
ANSWERS = {"a_logits": (7,), "b_embedding": (5,)}
READS = {"a": ["a_input"], "b": ["a_input", "b_input"]}
WRITES = {"a": ["a_logits"], "b": ["b_embedding"]}


def write_graphs(folder: Path, batch: int | str) -> None:
    """Write `model.onnx`, `trunk.onnx`, NAME.onnx and NAME_alone.onnx of both models.

    `batch` is the batch size of all graphs, or the name of a free dimension.
    """
    whole = folder / "model.onnx"
    onnx.save(_network(batch), whole)
    parts = {
        "trunk": (["a_input"], [EARLY, SHARED]),
        "a": ([EARLY, SHARED], WRITES["a"]),
        "b": ([SHARED, "b_input"], WRITES["b"]),
    }
    for name in READS:
        parts[f"{name}_alone"] = (READS[name], WRITES[name])
    for name, (inputs, outputs) in parts.items():
        onnx.utils.extract_model(whole, folder / f"{name}.onnx", inputs, outputs)


def _network(batch: int | str) -> onnx.ModelProto:
    def tensor(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])

    generator = np.random.default_rng(0)
    shapes = {
        "stem": (4, 3, 3, 3), "stage": (8, 4, 3, 3), "own": (8, 1, 3, 3), "head_a": (12, 7),
        "head_b": (16, 5),
    }  # fmt: skip
    weights = [
        numpy_helper.from_array(generator.standard_normal(shape, np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["a_input", "stem"], [EARLY]),
        helper.make_node("Conv", [EARLY, "stage"], [SHARED]),
        helper.make_node("ReduceMean", [EARLY], ["early"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", [SHARED], ["late"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["early", "late"], ["taps"], axis=1),
        helper.make_node("MatMul", ["taps", "head_a"], ["a_logits"]),
        helper.make_node("Conv", ["b_input", "own"], ["local"]),
        helper.make_node("ReduceMean", ["local"], ["local_pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMax", [SHARED], ["highest"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["highest", "local_pooled"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "head_b"], ["b_embedding"]),
    ]
    inputs = [tensor(name, shape) for name, shape in FRAMES.items()]
    outputs = [tensor(name, shape) for name, shape in ANSWERS.items()]
    graph = helper.make_graph(nodes, "merged", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
