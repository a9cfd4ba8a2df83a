"""Read networks in ONNX files, written the way in which they can be converted and cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import count
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spaces.errors import BadInput

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

NO_VALUES = "merge_search: zeros"
"""Text in a tensor without values, which is read as zeros."""
FEWEST_VALUES = 64
"""Tensors of fewer values may be sizes and factors: they belong to the structure of a network."""


def read_onnx(path: Path, model: str) -> ModelProto:
    """Read an ONNX file, with its weights in files beside it; `model` is for errors.

    Raises:
        BadInput: the file is missing, damaged, or of another kind.
    """
    import onnx

    if not path.is_file():
        raise BadInput(f"{model}: ONNX file {path}: there is no such file")
    try:
        network = onnx.load(path)
        for tensor in network.graph.initializer:
            if tensor.doc_string == NO_VALUES:
                tensor.raw_data = bytes(prod(tensor.dims) * _bytes_per_value(tensor))
        onnx.checker.check_model(network)
    except Exception as error:
        # damaged bytes can raise any exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{model}: ONNX file {path}: cannot be read ({reason})") from error
    if not network.graph.node:
        raise BadInput(f"{model}: ONNX file {path}: holds no network")
    return network


def write_without_weights(network: ModelProto, path: Path) -> None:
    """Write a network that `read_onnx` reads with zeros in the place of its weights."""
    import onnx

    for tensor in network.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and prod(tensor.dims) >= FEWEST_VALUES:
            tensor.ClearField("float_data")
            tensor.ClearField("raw_data")
            tensor.doc_string = NO_VALUES
    for node in network.graph.node:
        node.ClearField("metadata_props")  # the exporter's paths of the machine
        node.ClearField("doc_string")
    onnx.save(network, path)


def _bytes_per_value(tensor: TensorProto) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def inputs_of(network: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs of a network that are not weights."""
    weights = {tensor.name for tensor in network.graph.initializer}
    return [value for value in network.graph.input if value.name not in weights]


def shape_of(value: ValueInfoProto) -> tuple[int | None, ...]:
    """Return the shape of a value; None is a size that is open."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def control_flow(network: ModelProto) -> str:
    """Return the kind of the first operation that holds a graph of its own; or an empty text."""
    kinds = (n.op_type for n in network.graph.node if any(a.HasField("g") for a in n.attribute))
    return next(kinds, "")


def simplify(network: ModelProto) -> None:
    """Write a network in place so that modules can be built and traced: other names, no copies."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(network, data_prop=True)
    graph = network.graph
    shapes = {value.name: shape_of(value) for value in inferred.graph.value_info}
    _make_constants_weights(graph)
    _remove_copies(graph)
    _keep_frames_open(graph, shapes)
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            _drop_attribute(node, "training_mode")
    _rename(graph)


def _make_constants_weights(graph: GraphProto) -> None:
    for node in list(graph.node):
        values = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant" and values:
            tensor = graph.initializer.add()
            tensor.CopyFrom(values[0])
            tensor.name = node.output[0]
            graph.node.remove(node)


def _remove_copies(graph: GraphProto) -> None:
    """Read the value itself in the place of a copy of it."""
    outputs = {value.name for value in graph.output}
    originals: dict[str, str] = {}
    for node in list(graph.node):
        for position, name in enumerate(node.input):
            node.input[position] = originals.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            originals[node.output[0]] = node.input[0]
            graph.node.remove(node)


def _keep_frames_open(graph: GraphProto, shapes: dict[str, tuple[int | None, ...]]) -> None:
    """Give operations their sizes as numbers, if only the number of frames is open.

    Exporters compute that number from the input, which then everything would read. In a reshape,
    -1 stands for it; other operations take it from the input of the network.
    """
    from onnx import numpy_helper

    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        shape = shapes.get(node.output[0], ())
        if node.op_type not in ("Reshape", "Expand") or node.input[1] in weights:
            continue
        if shape.count(None) != 1 or (node.op_type == "Expand" and shape[0] is not None):
            continue
        sizes = [-1 if size is None else size for size in shape]
        name = f"{node.output[0]}_sizes"
        graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
        node.input[1] = name
        if node.op_type == "Expand":
            node.input.append(graph.input[0].name)
    _remove_unread(graph)


def _remove_unread(graph: GraphProto) -> None:
    """Remove the operations whose values nothing reads any more."""
    read = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if read.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            read.update(node.input)


def _drop_attribute(node: NodeProto, name: str) -> None:
    """Remove an attribute that is 0."""
    for attribute in list(node.attribute):
        if attribute.name == name and attribute.i == 0:
            node.attribute.remove(attribute)


def _rename(graph: GraphProto) -> None:
    """Give every value a name that a module can have: letters, digits and underscores."""
    names: dict[str, str] = {"": ""}
    taken: set[str] = set()
    for name in _names(graph):
        if name not in names:
            names[name] = _free_name(re.sub(r"\W+", "_", name).strip("_") or "value", taken)
    for value in [*graph.input, *graph.output, *graph.initializer]:
        value.name = names[value.name]
    for node in graph.node:
        node.name = ""
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    graph.ClearField("value_info")


def _names(graph: GraphProto) -> Iterator[str]:
    values: Sequence[ValueInfoProto | TensorProto] = [*graph.input, *graph.initializer]
    yield from (value.name for value in values)
    for node in graph.node:
        yield from node.input
        yield from node.output


def _free_name(name: str, taken: set[str]) -> str:
    numbered = (f"{name}_{number}" for number in count(2))
    free = name
    while free in taken:
        free = next(numbered)
    taken.add(free)
    return free
