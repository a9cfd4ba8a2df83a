"""Write the transpositions of an ONNX graph with at most four dimensions.

A batch of one needs no dimension, and dimensions that stay neighbours are one. A detector's head,
a shuffle of channels and the windows of a transformer have five or six dimensions otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from spaces.portable.values import add_integers, constant_of, fixed_shape, replace_node, typed

MOST_DIMENSIONS = 4


def join_dimensions(graph: ir.Graph, transpose: ir.Node) -> None:
    """Rewrite a transposition of more dimensions between two reshapes, or before slices."""
    source = transpose.inputs[0] if transpose.op_type == "Transpose" else None
    if source is None or len(fixed_shape(source)) <= MOST_DIMENSIONS:
        return
    readers = [use.node for use in transpose.outputs[0].uses()]
    slices = [reader for reader in readers if reader.op_type == "Slice"]
    order = list(transpose.attributes["perm"].as_ints())
    apart = {order[axis] for node in slices for axis in _sliced_axes(node)}
    groups = _groups(fixed_shape(source), order, apart)
    followers = {node: [use.node for use in node.outputs[0].uses()] for node in slices}
    last = [node for node in readers if node not in slices]
    last += [follower for node in slices for follower in followers[node]]
    if len(groups) > MOST_DIMENSIONS or any(n.op_type not in ("Reshape", "Squeeze") for n in last):
        return
    joined = _joined_transpose(graph, transpose, source, groups)
    for node in readers:
        if node not in slices:
            _reshape_instead(graph, node, joined)
    for node in slices:
        part = _joined_slice(graph, node, joined, [order[a] for a in _sliced_axes(node)], groups)
        for follower in followers[node]:
            _reshape_instead(graph, follower, part)


def _groups(shape: Sequence[int], order: Sequence[int], apart: set[int]) -> list[tuple[int, ...]]:
    """Return the dimensions of the output in order, as groups of dimensions of the input.

    Dimensions of size 1 belong to no group, unless they are to stay `apart`.
    """
    groups: list[tuple[int, ...]] = []
    kept = [axis for axis in range(len(shape)) if shape[axis] > 1 or axis in apart]
    for axis in (axis for axis in order if axis in kept):
        before = kept[kept.index(axis) - 1] if kept.index(axis) else None
        if groups and groups[-1][-1] == before and not {before, axis} & apart:
            groups[-1] = (*groups[-1], axis)
        else:
            groups.append((axis,))
    return groups


def _joined_transpose(
    graph: ir.Graph, transpose: ir.Node, source: ir.Value, groups: list[tuple[int, ...]]
) -> ir.Value:
    sizes = {group: prod(fixed_shape(source)[axis] for axis in group) for group in groups}
    given = sorted(groups)
    reshape = ir.node("Reshape", [source, add_integers(graph, [sizes[group] for group in given])])
    joined = ir.node(
        "Transpose",
        [typed(reshape.outputs[0], source, [sizes[group] for group in given])],
        {"perm": [given.index(group) for group in groups]},
    )
    graph.insert_before(transpose, [reshape, joined])
    return typed(joined.outputs[0], source, [sizes[group] for group in groups])


def _sliced_axes(node: ir.Node) -> list[int]:
    """Return the axes that a slice names, counted from the first one."""
    rank, axes = len(fixed_shape(node.inputs[0])), constant_of(node.inputs[3])
    return [] if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]


def _joined_slice(
    graph: ir.Graph,
    node: ir.Node,
    joined: ir.Value,
    axes: Sequence[int],
    groups: list[tuple[int, ...]],
) -> ir.Value:
    """Return the slice of a joined transposition; `axes` are those of the input of that."""
    positions = [groups.index((axis,)) for axis in axes]
    inputs = [joined, *node.inputs[1:3], add_integers(graph, positions), *node.inputs[4:]]
    part = ir.node("Slice", inputs)
    graph.insert_before(node, part)
    shape = list(fixed_shape(joined))
    sliced = fixed_shape(node.outputs[0])
    for axis, position in zip(_sliced_axes(node), positions, strict=True):
        shape[position] = sliced[axis]
    return typed(part.outputs[0], joined, shape)


def _reshape_instead(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let a node that only changes the shape read another value of the same numbers."""
    output = node.outputs[0]
    shape = fixed_shape(output)
    reshape = ir.node("Reshape", [value, add_integers(graph, shape)])
    graph.insert_before(node, reshape)
    made = typed(reshape.outputs[0], output, shape)
    replace_node(graph, node, made)
