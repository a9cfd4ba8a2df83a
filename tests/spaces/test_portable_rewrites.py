"""Each rewrite of a graph keeps its outputs, and removes what compilers of boxes refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spaces.graph_export import OnnxSession
from spaces.portable.graph import convert_integers_on_loading, make_portable
from spaces.portable.opsets import NotPortable

Arrays = dict[str, NDArray[np.generic]]
RNG = np.random.default_rng(0)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int],
    constants: Arrays,
    output: Sequence[int],
) -> onnx.ModelProto:
    """Return a graph of float nodes from `x` to `y` with constants, in operator set 18."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return inferred


def rewritten(model: onnx.ModelProto, opset: int = 17) -> onnx.ModelProto:
    """Return the portable graph, after a check that it is valid and has the same outputs."""
    portable = ir.serde.deserialize_model(model)
    make_portable(portable, opset, ir_version=8)
    result: onnx.ModelProto = ir.serde.serialize_model(portable)
    onnx.checker.check_model(result, full_check=True)
    assert same_outputs(model, result)
    return result


def same_outputs(model: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    inputs = {"x": torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))}
    before = OnnxSession(model.SerializeToString()).run(inputs)["y"]
    after = OnnxSession(other.SerializeToString()).run(inputs)["y"]
    near = np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
    return before.shape == after.shape and bool(near)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


NORM = ("gamma", "beta", "mean", "variance")


def norm_constants(channels: int) -> Arrays:
    """Return the parameters of a BatchNorm; some of its factors are negative."""
    gamma, beta, mean = normal(channels), normal(channels), normal(channels)
    return dict(zip(NORM, (gamma, beta, mean, normal(channels) ** 2 + 0.1), strict=True))


def conv(read: str, made: str, *weights: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [read, *weights], [made], kernel_shape=[3, 3], pads=[1] * 4)


def norm(read: str, made: str) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [read, *NORM], [made], epsilon=1e-3)


@pytest.mark.parametrize("biases", [{}, {"b": normal(5)}])
def test_a_batchnorm_is_folded_into_the_convolution_before_it(biases: Arrays) -> None:
    nodes = [conv("x", "c", "w", *biases), norm("c", "y")]
    constants = {"w": normal(5, 3, 3, 3), **biases, **norm_constants(5)}
    assert operators(rewritten(graph_of(nodes, [1, 3, 8, 8], constants, [1, 5, 8, 8]))) == {
        "Conv": 1
    }


def test_integers_stay_integers_when_a_batchnorm_is_folded() -> None:
    integers = RNG.integers(-127, 128, (5, 3, 3, 3), np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["wide"], axis=0),
        conv("x", "c", "wide"),
        norm("c", "y"),
    ]
    constants = {"w": integers, "scale": np.abs(normal(5)) + 0.01, **norm_constants(5)}
    portable = rewritten(graph_of(nodes, [1, 3, 8, 8], constants, [1, 5, 8, 8]))
    assert operators(portable) == {"DequantizeLinear": 1, "Conv": 1}
    stored = {t.name: numpy_helper.to_array(t) for t in portable.graph.initializer}
    (kept,) = (array for array in stored.values() if array.dtype == np.int8)
    assert np.array_equal(np.abs(kept), np.abs(integers))
    read = next(node for node in portable.graph.node if node.op_type == "DequantizeLinear")
    assert (stored[read.input[1]] > 0).all()


def test_integers_are_converted_on_loading_where_a_runtime_asks_for_it() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["wide"], axis=0),
        conv("x", "c", "wide"),
        helper.make_node("Relu", ["c"], ["r"]),
        conv("r", "y", "wide"),
    ]
    integers = RNG.integers(-127, 128, (3, 3, 3, 3), np.int8)
    constants: Arrays = {"w": integers, "scale": np.abs(normal(3)) + 0.01}
    model = ir.serde.deserialize_model(graph_of(nodes, [1, 3, 8, 8], constants, [1, 3, 8, 8]))
    before = ir.serde.serialize_model(model)
    convert_integers_on_loading(model)
    after = ir.serde.serialize_model(model)
    assert operators(after) == {"Cast": 1, "Mul": 1, "Conv": 2, "Relu": 1}
    assert same_outputs(before, after)


def test_half_precision_weights_stay_so_when_a_batchnorm_is_folded() -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        conv("x", "c", "wide"),
        norm("c", "y"),
    ]
    constants = {"w": normal(5, 3, 3, 3).astype(np.float16), **norm_constants(5)}
    portable = rewritten(graph_of(nodes, [1, 3, 8, 8], constants, [1, 5, 8, 8]))
    assert operators(portable) == {"Cast": 1, "Mul": 1, "Conv": 1}
    halves = [t for t in portable.graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert len(halves) == 1


def test_weights_of_two_convolutions_are_not_copied_for_a_batchnorm() -> None:
    nodes = [
        conv("x", "c", "w"),
        norm("c", "n"),
        helper.make_node("Relu", ["x"], ["r"]),
        conv("r", "d", "w"),
        helper.make_node("Add", ["n", "d"], ["y"]),
    ]
    constants = {"w": normal(5, 3, 3, 3), **norm_constants(5)}
    portable = rewritten(graph_of(nodes, [1, 3, 8, 8], constants, [1, 5, 8, 8]))
    assert operators(portable) == {"Conv": 2, "Relu": 1, "Mul": 1, "Add": 2}
    assert sum(t.dims[:] == [5, 3, 3, 3] for t in portable.graph.initializer) == 1


def test_a_batchnorm_whose_convolution_is_read_elsewhere_is_a_product_and_a_sum() -> None:
    nodes = [conv("x", "c", "w"), norm("c", "n"), helper.make_node("Add", ["n", "c"], ["y"])]
    constants = {"w": normal(5, 3, 3, 3), **norm_constants(5)}
    portable = rewritten(graph_of(nodes, [1, 3, 8, 8], constants, [1, 5, 8, 8]))
    assert operators(portable) == {"Conv": 1, "Mul": 1, "Add": 2}


@pytest.mark.parametrize("keepdims", [0, 1])
def test_the_sum_of_a_stack_is_a_sum_of_maps(keepdims: int) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Sigmoid", ["x"], ["s"]),
        *(helper.make_node("Unsqueeze", [n, "last"], [f"{n}5"]) for n in ("x", "r", "s")),
        helper.make_node("Concat", ["x5", "r5", "s5"], ["stack"], axis=-1),
        helper.make_node("ReduceSum", ["stack", "last"], ["y"], keepdims=keepdims),
    ]
    constants: Arrays = {"last": np.array([-1])}
    output = [1, 3, 4, 4, *([1] * keepdims)]
    portable = rewritten(graph_of(nodes, [1, 3, 4, 4], constants, output))
    reshapes = {"Reshape": 1} if keepdims else {}
    assert operators(portable) == {"Relu": 1, "Sigmoid": 1, "Add": 2, **reshapes}


def test_the_sum_over_another_axis_than_that_of_the_stack_stays() -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["x", "last"], ["x5"]),
        helper.make_node("Concat", ["x5", "x5"], ["stack"], axis=-1),
        helper.make_node("ReduceSum", ["stack", "channels"], ["y"], keepdims=0),
    ]
    constants: Arrays = {"last": np.array([-1]), "channels": np.array([1])}
    portable = rewritten(graph_of(nodes, [1, 3, 4, 4], constants, [1, 4, 4, 2]))
    assert operators(portable)["ReduceSum"] == 1


@pytest.mark.parametrize(("keepdims", "output"), [(0, [1, 3]), (1, [1, 3, 1, 1])])
def test_the_mean_over_all_positions_is_a_pool(keepdims: int, output: list[int]) -> None:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)
    model = graph_of([node], [1, 3, 4, 4], {"axes": np.array([-1, 2])}, output)
    assert operators(rewritten(model))["GlobalAveragePool"] == 1


def test_a_constant_for_each_channel_has_four_dimensions() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "c"], ["m"]),
        helper.make_node("Add", ["m", "last"], ["y"]),
    ]
    constants: Arrays = {"c": normal(3, 1, 1), "last": normal(4)}
    portable = rewritten(graph_of(nodes, [1, 3, 4, 4], constants, [1, 3, 4, 4]))
    read = {tensor.name: list(tensor.dims) for tensor in portable.graph.initializer}
    shapes = [read[node.input[1]] for node in portable.graph.node]
    assert shapes == [[1, 3, 1, 1], [4]]


@pytest.mark.parametrize(
    ("places", "left"),
    [
        (np.array(2), {"Slice", "Reshape"}),
        (np.array([1, 3, 5]), {"Slice"}),
        (np.arange(6), set()),
        (np.arange(6).reshape(2, 3), {"Reshape"}),
        (np.array([-1]), {"Slice"}),
        (np.array([3, 0]), {"Gather"}),
    ],
)
def test_a_gather_at_evenly_spaced_places_is_a_slice(
    places: NDArray[np.int64], left: set[str]
) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Gather", ["r", "places"], ["y"], axis=1),
    ]
    model = graph_of(nodes, [2, 6, 4], {"places": places}, [2, *places.shape, 4])
    assert set(operators(rewritten(model))) - {"Relu", "Identity"} <= left
    assert left == {"Gather"} or "Gather" not in operators(rewritten(model))


def rank(model: onnx.ModelProto) -> int:
    """Return the most dimensions of any tensor."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    return max(len(value.type.tensor_type.shape.dim) for value in values)


@pytest.mark.parametrize(
    ("shape", "between", "perm", "output", "most"),
    [
        # a shuffle of channels
        ([1, 12, 4, 4], [1, 2, 6, 4, 4], [0, 2, 1, 3, 4], [1, 12, 4, 4], 4),
        # the anchors of a detector's head
        ([1, 12, 4, 4], [1, 3, 4, 4, 4], [0, 3, 4, 1, 2], [1, 48, 4], 3),
        # windows of a transformer, and back
        ([1, 8, 8, 5], [1, 2, 4, 2, 4, 5], [0, 1, 3, 2, 4, 5], [4, 16, 5], 4),
        # patches that need five dimensions
        ([2, 6, 4, 4], [2, 6, 2, 2, 4], [3, 2, 1, 0, 4], [4, 12, 4], 5),
    ],
)
def test_transpositions_have_four_dimensions_where_four_are_enough(
    shape: list[int], between: list[int], perm: list[int], output: list[int], most: int
) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "between"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=perm),
        helper.make_node("Reshape", ["t", "output"], ["y"]),
    ]
    constants: Arrays = {"between": np.array(between), "output": np.array(output)}
    assert rank(rewritten(graph_of(nodes, shape, constants, output))) == most


def test_queries_keys_and_values_are_sliced_with_four_dimensions() -> None:
    constants: Arrays = {"between": np.array([1, 7, 3, 2, 4]), "axes": np.array([0])}
    nodes = [
        helper.make_node("Reshape", ["x", "between"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
    ]
    for part, name in enumerate("qkv"):
        constants |= {f"{part}": np.array([part]), f"{part + 1}": np.array([part + 1])}
        slice_inputs = ["t", f"{part}", f"{part + 1}", "axes"]
        nodes += [
            helper.make_node("Slice", slice_inputs, [f"{name}5"]),
            helper.make_node("Squeeze", [f"{name}5", "axes"], [name]),
        ]
    nodes += [
        helper.make_node("Mul", ["q", "k"], ["qk"]),
        helper.make_node("Add", ["qk", "v"], ["y"]),
    ]
    portable = rewritten(graph_of(nodes, [1, 7, 24], constants, [1, 2, 7, 4]))
    assert rank(portable) == 4 and operators(portable)["Transpose"] == 1


def test_settings_that_older_operators_lack_are_written_the_old_way() -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads", "", "axes"], ["p"]),
        helper.make_node("Split", ["p"], ["s", "t"], axis=1, num_outputs=2),
        helper.make_node("ReduceMax", ["s", "reduced"], ["m"], keepdims=1),
        helper.make_node("Add", ["t", "m"], ["a"]),
        helper.make_node("Resize", ["a", "", "", "sizes"], ["y"], mode="linear", antialias=0),
    ]
    constants: Arrays = {
        "pads": np.array([1, 0, 0, 2]), "axes": np.array([2, -1]), "reduced": np.array([1]),
        "sizes": np.array([1, 2, 10, 12]),
    }  # fmt: skip
    portable = rewritten(graph_of(nodes, [1, 4, 4, 4], constants, [1, 2, 10, 12]))
    assert portable.opset_import[0].version == 17 and portable.ir_version == 8


def test_an_operator_that_the_older_set_lacks_is_named() -> None:
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    model = graph_of([node], [1, 4, 4, 4], {"s": normal(2), "b": normal(2)}, [1, 4, 4, 4])
    with pytest.raises(NotPortable, match="GroupNormalization: operator set 17 has no operator"):
        rewritten(model)
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=1)
    model = graph_of([node], [1, 4, 8, 8], {"sizes": np.array([1, 4, 4, 4])}, [1, 4, 4, 4])
    with pytest.raises(NotPortable, match="Resize"):
        rewritten(model)
