"""Read the constants and shapes of an ONNX graph, and add constants to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def maker_of(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def constant_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the numbers of a constant; None for anything else."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def floats_of(value: ir.Value | None) -> Float32Array:
    numbers = constant_of(value)
    assert numbers is not None
    return numbers.astype(np.float32)


def fixed_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Return the shape of a value in a graph with fixed shapes."""
    assert value is not None and value.shape is not None
    return tuple(int(side) for side in value.shape if isinstance(side, int))


def name_of(value: ir.Value | None) -> str:
    assert value is not None and value.name is not None
    return value.name


def like(value: ir.Value, other: ir.Value) -> ir.Value:
    value.type, value.shape = other.type, other.shape
    return value


def typed(value: ir.Value, other: ir.Value, shape: Sequence[int]) -> ir.Value:
    value.type, value.shape = other.type, ir.Shape(shape)
    return value


def add_weights(graph: ir.Graph, numbers: NDArray[np.floating], name: str) -> ir.Value:
    return add_initializer(graph, numbers.astype(np.float32), name)


def add_integers(graph: ir.Graph, numbers: Sequence[int]) -> ir.Value:
    name = f"integers {'_'.join(map(str, numbers))}"
    if name in graph.initializers:
        return graph.initializers[name]
    return add_initializer(graph, np.array(numbers, np.int64), name)


def add_initializer(graph: ir.Graph, numbers: NDArray[np.generic], name: str) -> ir.Value:
    """Add a constant to a graph under a name that is not taken yet."""
    free, count = name, 1
    while free in graph.initializers:
        count += 1
        free = f"{name}.{count}"
    value = ir.Value(
        name=free,
        type=ir.TensorType(ir.tensor(numbers).dtype),
        shape=ir.Shape(numbers.shape),
        const_value=ir.tensor(numbers, name=free),
    )
    graph.register_initializer(value)
    return value


def replace_node(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let everything that reads the output of a node read another value, and remove the node."""
    old = node.outputs[0]
    if old.is_graph_output():
        # The name of an output is kept.
        value.name = old.name
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
