"""Check a graph against the form that a runtime takes, before its compiler is at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from search.deploy.runtimes.graph_values import TYPE_NAMES, GraphValues, TensorFacts
from search.deploy.runtimes.operator_list import Allowed, OperatorList, Restriction
from search.deploy.runtimes.target import RuntimeTarget

SHAPE_OPERATORS = ("Range", "Shape", "Size")
"""Operators that compute shapes: in a graph of fixed shapes they are constants."""
PLAIN_TYPES = ("float", "bool", "int32", "int64")
"""Types of the constants of a graph with plain weights; int64 are axes, shapes and places."""


def check_graph(model: onnx.ModelProto, target: RuntimeTarget) -> list[str]:
    """Return what the runtime would refuse, one sentence for each kind; empty if nothing.

    A sentence counts the nodes or tensors, and names the first. `model` may be read without its
    weights (`onnx.load(path, load_external_data=False)`).
    """
    values = GraphValues(model)
    return [
        *_check_versions(model, target),
        *_check_shapes(values, target),
        *_check_weights(model, target),
        *_check_types(values, target),
        *_check_operators(values, target),
    ]


def _check_versions(model: onnx.ModelProto, target: RuntimeTarget) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            used = [node for node in model.graph.node if node.domain == opset.domain]
            if used:
                yield f"{_nodes(used)}: {opset.domain} is no domain of ONNX"
        elif opset.version > target.opset:
            yield f"operator set {opset.version}: {target.title} gets {target.opset} at most"
    if model.ir_version > target.ir_version:
        yield f"file format {model.ir_version}: {target.title} gets {target.ir_version} at most"


def _check_shapes(values: GraphValues, target: RuntimeTarget) -> Iterator[str]:
    tensors = [*values.inputs, *values.weights, *values.computed]
    unknown = [tensor for tensor in tensors if tensor.dims is None]
    open_ended = [tensor for tensor in tensors if tensor.dims and None in tensor.dims]
    yield from _tensors(unknown, "of unknown shape")
    yield from _tensors(open_ended, "with a dimension that is not fixed")
    most = target.max_dimensions
    large = [tensor for tensor in tensors if tensor.dims and len(tensor.dims) > most]
    yield from _tensors(large, f"of more than {most} dimensions")
    computing = [node for node in values.nodes if node.op_type in SHAPE_OPERATORS]
    for operator, nodes in _by_operator(computing):
        yield f"{operator}: {_nodes(nodes)}: computes a shape, and all shapes must be fixed"


def _check_weights(model: onnx.ModelProto, target: RuntimeTarget) -> Iterator[str]:
    outside = [
        TensorFacts(tensor.name, TYPE_NAMES[tensor.data_type], tuple(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    if not target.weights_beside:
        yield from _tensors(outside, "stored in a file beside the graph")


def _check_types(values: GraphValues, target: RuntimeTarget) -> Iterator[str]:
    tensors = [*values.inputs, *values.weights, *values.computed]
    yield from _tensors([t for t in tensors if t.dtype == "double"], "in float64")
    if target.operators is None:
        return
    ends = [t for t in [*values.inputs, *values.outputs] if t.dtype != "float"]
    yield from _tensors(ends, "that are inputs or outputs, and not in float32")
    whole = [t for t in values.computed if t.dtype == "int64"]
    yield from _tensors(whole, "computed in int64")
    stored = [t for t in values.weights if t.dtype not in (*PLAIN_TYPES, "double")]
    yield from _tensors(stored, f"stored in fewer bits, and {target.title} takes float32")


def _check_operators(values: GraphValues, target: RuntimeTarget) -> Iterator[str]:
    listed = target.operators
    if listed is None:
        return
    nodes = [n for n in values.nodes if n.domain in ("", "ai.onnx")]
    missing = [n for n in nodes if n.op_type not in listed.operators | {*SHAPE_OPERATORS}]
    for operator, refused in _by_operator(missing):
        yield f"{operator}: {_nodes(refused)}: not an operator of {listed.version}"
    for operator, found in _by_operator(nodes):
        yield from _check_restrictions(operator, found, listed, values)


def _check_restrictions(
    operator: str, nodes: list[onnx.NodeProto], listed: OperatorList, values: GraphValues
) -> Iterator[str]:
    for restriction in listed.restrictions:
        if operator not in restriction.operators:
            continue
        faults = [(n, fault) for n in nodes if (fault := _fault(n, restriction, values))]
        if faults:
            part, allowed = name_part(operator, restriction), restriction.describe_allowed()
            counted = _nodes([node for node, _ in faults])
            yield f"{operator}: {counted}: {part} is {faults[0][1]}, allowed: {allowed}"


def name_part(operator: str, restriction: Restriction) -> str:
    """Return the name of the part of a node that a restriction is about, as ONNX has it."""
    if restriction.part == "attribute":
        return str(restriction.which)
    if restriction.part == "input":
        return str(onnx.defs.get_schema(operator).inputs[int(restriction.which)].name)
    return {
        "axes": "axis",
        "rank": "number of dimensions",
        "batch": "batch",
        "channel": "number of dimensions of a constant per channel",
    }[restriction.part]


def _fault(node: onnx.NodeProto, restriction: Restriction, values: GraphValues) -> str | None:
    """Return what a node has instead of what is allowed; none if it keeps to the restriction."""
    if restriction.part == "input":
        position = int(restriction.which)
        name = node.input[position] if len(node.input) > position else ""
        if name and not values.is_constant(name):
            return "computed"
    refused = [v for v in _restricted(node, restriction, values) if not restriction.allows(v)]
    return str(refused[0]) if refused else None


def _restricted(
    node: onnx.NodeProto, restriction: Restriction, values: GraphValues
) -> list[Allowed]:
    """Return the values of a node that a restriction is about."""
    first = node.input[0] if node.input else ""
    if restriction.part == "attribute":
        return values.attribute(node, str(restriction.which))
    if restriction.part == "input":
        position = int(restriction.which)
        return values.constant(node.input[position]) if len(node.input) > position else []
    if restriction.part == "axes":
        return values.axes(node)
    if restriction.part == "channel":
        return [*values.channel_constants(node)]
    number = values.rank(first) if restriction.part == "rank" else values.batch(first)
    return [] if number is None else [number]


def _by_operator(nodes: Iterable[onnx.NodeProto]) -> list[tuple[str, list[onnx.NodeProto]]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        found.setdefault(node.op_type, []).append(node)
    return sorted(found.items())


def _nodes(nodes: list[onnx.NodeProto]) -> str:
    first = nodes[0].name or nodes[0].output[0]
    return f"{len(nodes)} node{'s' * (len(nodes) > 1)} (first: {first})"


def _tensors(tensors: list[TensorFacts], fault: str) -> Iterator[str]:
    if tensors:
        plural = "s" * (len(tensors) > 1)
        yield f"{len(tensors)} tensor{plural} {fault} (first: {tensors[0].name})"
