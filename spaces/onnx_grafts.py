"""Layers of an int8 graph, put into the float graph that it was made of.

A layer there reads the same activations as in float, so its own error shows, without that of the
layers before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from spaces.graph_export import OnnxSession

AXES = {"Conv": (0, 2, 3), "Gemm": (0,)}
"""By layer with a bias: the axes of its output that are no channels."""
INT8_OPERATORS = (*AXES, "MatMul")
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
GRAFT = "int8:"
"""Begins the names of everything that is put into a float graph."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Int8Layer:
    """A layer of an int8 graph and the nodes that make its inputs."""

    node: onnx.NodeProto
    readers: tuple[onnx.NodeProto, ...]
    """The `QuantizeLinear` of its activations, and the `DequantizeLinear` of each input."""

    @property
    def bias(self) -> onnx.NodeProto | None:
        """The `DequantizeLinear` of the bias, if the layer has one."""
        return self.readers[-1] if len(self.node.input) > 2 else None


def int8_layers(model: onnx.ModelProto) -> dict[str, Int8Layer]:
    """Return the layers of a graph that compute in int8, by name."""
    makers = {output: node for node in model.graph.node for output in node.output}
    layers = {}
    for node in model.graph.node:
        last = [makers[name] for name in node.input if name in makers]
        if node.op_type in INT8_OPERATORS and [r.op_type for r in last] == [DEQUANTIZE] * len(
            node.input
        ):
            first = [makers[reader.input[0]] for reader in last if reader.input[0] in makers]
            layers[node.name] = Int8Layer(node, (*first, *last))
    return layers


def with_int8_layers(
    model: onnx.ModelProto, quantised: onnx.ModelProto, names: Collection[str]
) -> onnx.ModelProto:
    """Return the float graph with some of its layers in int8, as the quantised graph has them."""
    layers = {name: layer for name, layer in int8_layers(quantised).items() if name in names}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in layers:
            nodes += _readers(layers[node.name])
            twin = _renamed(layers[node.name].node)
            twin.output[:] = node.output
            node = twin
        nodes.append(node)
    return _grafted(model, quantised, nodes)


def correct_biases(
    model: onnx.ModelProto, quantised: onnx.ModelProto, feeds: Iterable[Mapping[str, Tensor]]
) -> None:
    """Change the biases of int8 layers so that the mean output of each channel is that in float.

    Each layer is compared on the activations that the float graph has before it.

    Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", section 4.2, with the means measured on frames.
    """
    layers = {name: layer for name, layer in int8_layers(quantised).items() if layer.bias}
    if not layers:
        return
    means = _mean_outputs(_with_twins(model, quantised, layers), feeds)
    tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
    errors: defaultdict[str, list[Vector]] = defaultdict(list)
    for name, layer in layers.items():
        assert layer.bias is not None
        stored, scale = layer.bias.input[:2]
        error = means[_mean_name(GRAFT + name)] - means[_mean_name(name)]
        errors[stored].append(error / numpy_helper.to_array(tensors[scale]))
    for stored, of_layers in errors.items():  # several layers if these share their weights
        integers = numpy_helper.to_array(tensors[stored]) - np.mean(of_layers, axis=0)
        corrected = integers.round().astype(np.int32)
        tensors[stored].CopyFrom(numpy_helper.from_array(corrected, name=stored))


def _with_twins(
    model: onnx.ModelProto, quantised: onnx.ModelProto, layers: Mapping[str, Int8Layer]
) -> onnx.ModelProto:
    """Return the float graph with an int8 twin beside each layer; it outputs channel means."""
    nodes: list[onnx.NodeProto] = []
    outputs: list[str] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.name in layers:
            twin = _renamed(layers[node.name].node)
            nodes += [*_readers(layers[node.name]), twin, _mean(node), _mean(twin)]
            outputs += [_mean_name(node.name), _mean_name(twin.name)]
    twinned = _grafted(model, quantised, nodes)
    del twinned.graph.output[:]
    twinned.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs
    )
    for rank, axes in AXES.items():
        twinned.graph.initializer.append(
            numpy_helper.from_array(np.array(axes, np.int64), name=_axes_name(rank))
        )
    return twinned


def _mean(layer: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node that computes the mean of each channel that a layer outputs."""
    name, axes = _mean_name(layer.name), _axes_name(layer.op_type)
    return helper.make_node("ReduceMean", [layer.output[0], axes], [name], name, keepdims=0)


def _axes_name(operator: str) -> str:
    return f"{GRAFT}axes of {operator}"


def _mean_name(layer: str) -> str:
    return f"mean of {layer}"


def _mean_outputs(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, Tensor]]
) -> dict[str, Vector]:
    session, count = OnnxSession(model.SerializeToString()), 0
    sums: dict[str, Vector] = {}
    for feed in feeds:
        for name, mean in session.run(feed).items():
            sums[name] = sums.get(name, 0) + mean.astype(np.float64)
        count += 1
    return {name: total / count for name, total in sums.items()}


def _readers(layer: Int8Layer) -> list[onnx.NodeProto]:
    """Return copies of the nodes that make a layer's inputs, from activations in float."""
    copies = []
    for reader in layer.readers:
        copy = _renamed(reader)
        if reader.op_type == QUANTIZE:
            copy.input[0] = reader.input[0]
        copies.append(copy)
    return copies


def _renamed(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a copy whose name, inputs and outputs are marked as grafted."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = GRAFT + node.name
    copy.input[:] = [GRAFT + name for name in node.input]
    copy.output[:] = [GRAFT + name for name in node.output]
    return copy


def _grafted(
    model: onnx.ModelProto, quantised: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]
) -> onnx.ModelProto:
    """Return a graph of the nodes, each once, with the tensors that they read."""
    # by output: operations that onnxruntime unrolls have equal names, or none
    unique = {node.output[0]: node for node in nodes}.values()
    read = {name for node in unique for name in node.input}
    grafted = onnx.ModelProto()
    grafted.CopyFrom(model)
    del grafted.graph.node[:]
    grafted.graph.node.extend(unique)
    for tensor in quantised.graph.initializer:
        if GRAFT + tensor.name in read:
            copied = grafted.graph.initializer.add()
            copied.CopyFrom(tensor)
            copied.name = GRAFT + tensor.name
    return grafted
