"""Replace nodes of an ONNX graph by others that more compilers take."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from spaces.portable.values import (
    add_initializer,
    add_integers,
    add_weights,
    constant_of,
    fixed_shape,
    floats_of,
    like,
    maker_of,
    name_of,
    replace_node,
    typed,
)


def add_stack(graph: ir.Graph, total: ir.Node) -> None:
    """Replace the sum over a stack of tensors by sums of two, which need a dimension less."""
    stack = maker_of(total.inputs[0]) if total.op_type == "ReduceSum" else None
    if stack is None or stack.op_type != "Concat" or len(total.inputs) != 2:
        return
    rank = len(fixed_shape(stack.outputs[0]))
    axis = stack.attributes["axis"].as_int() % rank
    parts = [_unstacked(part, axis) for part in stack.inputs]
    unstacked = [part for part in parts if part is not None]
    if len(unstacked) < len(parts) or _axes(total.inputs[1], rank) != [axis]:
        return
    value, *others = unstacked
    for part in others:
        node = ir.node("Add", [value, part])
        graph.insert_before(total, node)
        value = typed(node.outputs[0], total.outputs[0], fixed_shape(part))
    if total.attributes.get_int("keepdims", 1):
        value = _reshaped(graph, total, value)
    replace_node(graph, total, value)


def _unstacked(part: ir.Value | None, axis: int) -> ir.Value | None:
    """Return the tensor that a part of a stack was made of by a further dimension."""
    maker = maker_of(part)
    if maker is None or maker.op_type != "Unsqueeze":
        return None
    added = _axes(maker.inputs[1], len(fixed_shape(part)))
    return maker.inputs[0] if added == [axis] else None


def _axes(value: ir.Value | None, rank: int) -> list[int]:
    """Return constant axes counted from the first one; nothing if they are not constant."""
    axes = constant_of(value)
    return [] if axes is None else sorted(int(axis) % rank for axis in axes.reshape(-1))


def pool_mean(graph: ir.Graph, mean: ir.Node) -> None:
    """Replace the mean over all positions by the operator for it."""
    if mean.op_type != "ReduceMean" or mean.inputs[0] is None or len(mean.inputs) < 2:
        return
    rank = len(fixed_shape(mean.inputs[0]))
    if rank != 4 or _axes(mean.inputs[1], rank) != [2, 3]:
        return
    pool = ir.node("GlobalAveragePool", [mean.inputs[0]])
    graph.insert_before(mean, pool)
    channels = list(fixed_shape(mean.inputs[0]))[:2]
    value = typed(pool.outputs[0], mean.outputs[0], [*channels, 1, 1])
    if not mean.attributes.get_int("keepdims", 1):
        value = _reshaped(graph, mean, value)
    replace_node(graph, mean, value)


def slice_gather(graph: ir.Graph, gather: ir.Node) -> None:
    """Replace a read at evenly spaced constant places by a slice or, of all places, by nothing."""
    if gather.op_type != "Gather" or gather.inputs[0] is None:
        return
    places, shape = constant_of(gather.inputs[1]), fixed_shape(gather.inputs[0])
    axis = gather.attributes.get_int("axis", 0) % len(shape)
    if places is None or not places.size:
        return
    flat = places.reshape(-1) % shape[axis]
    step = int(flat[1] - flat[0]) if len(flat) > 1 else 1
    if step < 1 or not np.array_equal(flat, flat[0] + step * np.arange(len(flat))):
        return
    value = gather.inputs[0]
    if len(flat) < shape[axis]:
        ends = int(flat[-1]) + 1
        limits = [add_integers(graph, [n]) for n in (int(flat[0]), ends, axis, step)]
        node = ir.node("Slice", [value, *limits])
        graph.insert_before(gather, node)
        value = typed(node.outputs[0], value, [*shape[:axis], len(flat), *shape[axis + 1 :]])
    replace_node(graph, gather, _reshaped(graph, gather, value))


def drop_expand(graph: ir.Graph, expand: ir.Node) -> None:
    """Remove a repetition that repeats nothing."""
    source = expand.inputs[0] if expand.op_type == "Expand" else None
    if source is not None and fixed_shape(source) == fixed_shape(expand.outputs[0]):
        replace_node(graph, expand, source)


def add_batch_to_constant(graph: ir.Graph, node: ir.Node) -> None:
    """Give a constant for each channel the dimension of the batch.

    onnx2tf takes one without it for a constant of the last dimensions.
    """
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(fixed_shape(node.outputs[0])) != 4:
        return
    for index, value in enumerate(node.inputs):
        numbers = constant_of(value)
        if numbers is not None and numbers.ndim == 3 and numbers.shape[1:] == (1, 1):
            name = f"{name_of(value)}.channels"
            node.replace_input_with(index, add_initializer(graph, numbers[None], name))


def widen_at_load(graph: ir.Graph, node: ir.Node) -> None:
    """Read an integer weight by a cast and a product, which runtimes compute once, on loading.

    onnxruntime computes a `DequantizeLinear` in every run, and cannot lay such weights out for its
    fastest convolutions.
    """
    if node.op_type != "DequantizeLinear":
        return
    integers = node.inputs[0]
    if integers is None or constant_of(integers) is None:
        return
    column = floats_of(node.inputs[1]).reshape(-1, *(1 for _ in fixed_shape(integers)[1:]))
    cast = ir.node("Cast", [integers], {"to": ir.DataType.FLOAT})
    widened = like(cast.outputs[0], node.outputs[0])
    product = ir.node(
        "Mul", [widened, add_weights(graph, column, f"{name_of(node.inputs[1])}.column")]
    )
    graph.insert_before(node, [cast, product])
    replace_node(graph, node, like(product.outputs[0], node.outputs[0]))


def _reshaped(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    """Return a tensor in the shape of what a node outputs."""
    shape = fixed_shape(node.outputs[0])
    reshape = ir.node("Reshape", [value, add_integers(graph, list(shape))])
    graph.insert_before(node, reshape)
    return like(reshape.outputs[0], node.outputs[0])
