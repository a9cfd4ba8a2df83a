"""Fold the BatchNorms of an ONNX graph into its convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from spaces.portable.values import (
    Float32Array,
    add_initializer,
    add_weights,
    constant_of,
    fixed_shape,
    floats_of,
    like,
    maker_of,
    name_of,
    replace_node,
)


def fold_batchnorm(graph: ir.Graph, norm: ir.Node) -> None:
    """Fold a BatchNorm into the convolution before it, or make it a product and a sum."""
    if norm.op_type != "BatchNormalization":
        return
    gamma, beta, mean, variance = (floats_of(value) for value in norm.inputs[1:5])
    factor = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    conv = maker_of(norm.inputs[0])
    if conv is not None and _can_fold(conv):
        weight, bias = conv.inputs[1], np.zeros_like(mean)
        assert weight is not None
        if len(conv.inputs) > 2:
            bias = floats_of(conv.inputs[2])
        inputs = [
            conv.inputs[0],
            _scaled(graph, conv, weight, factor),
            add_weights(graph, (bias - mean) * factor + beta, f"{weight.name}.bias"),
        ]
        folded = ir.node("Conv", inputs, conv.attributes, name=conv.name)
        graph.insert_before(norm, folded)
        replace_node(graph, norm, like(folded.outputs[0], norm.outputs[0]))
        return

    value = norm.inputs[0]
    assert value is not None
    places = (1, -1, *(1 for _ in fixed_shape(value)[2:]))
    for operator, numbers in (("Mul", factor), ("Add", beta - mean * factor)):
        shaped = add_weights(graph, numbers.reshape(places), f"{norm.name}.{operator}")
        node = ir.node(operator, [value, shaped])
        graph.insert_before(norm, node)
        value = like(node.outputs[0], norm.outputs[0])
    replace_node(graph, norm, value)


def _can_fold(conv: ir.Node) -> bool:
    """Return whether nothing else reads a convolution or its weights."""
    if conv.op_type != "Conv" or len(conv.outputs[0].uses()) != 1:
        return False
    if len(conv.inputs) > 2 and constant_of(conv.inputs[2]) is None:
        return False
    weight = conv.inputs[1]
    if weight is None or len(weight.uses()) != 1:
        return False
    maker = maker_of(weight)
    stored = maker.inputs[0] if maker else weight
    return stored is not None and len(stored.uses()) == 1 and constant_of(stored) is not None


def _scaled(graph: ir.Graph, conv: ir.Node, weight: ir.Value, factor: Float32Array) -> ir.Value:
    """Return the weight of a convolution times a factor for each output channel.

    Integers keep their number of bytes, because their scales take the factor in.
    """
    column = factor.reshape(-1, *(1 for _ in fixed_shape(weight)[1:]))
    maker = maker_of(weight)
    if maker is None:
        return add_weights(graph, floats_of(weight) * column, f"{weight.name}.folded")
    if maker.op_type == "DequantizeLinear":
        integers, scale = (constant_of(value) for value in maker.inputs[:2])
        assert integers is not None and scale is not None
        name = f"{name_of(maker.inputs[0])}.folded"
        # A scale is positive: integers are symmetric, so they take the sign.
        signed = (integers * np.where(column < 0, -1, 1)).astype(np.int8)
        inputs = [
            add_initializer(graph, signed, name),
            add_weights(graph, scale.astype(np.float32) * np.abs(factor), f"{name}.scale"),
        ]
        node = ir.node("DequantizeLinear", inputs, {"axis": 0})
    else:
        node = ir.node("Mul", [weight, add_weights(graph, column, f"{weight.name}.factor")])
    graph.insert_before(conv, node)
    return like(node.outputs[0], weight)
