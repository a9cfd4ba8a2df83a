"""Write the nodes of an ONNX graph in an older set of operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from spaces.errors import MergeSearchError
from spaces.portable.values import add_integers, constant_of, fixed_shape


class NotPortable(MergeSearchError):
    """A graph holds an operator that the older set of operators does not have."""


def lower_opset(model: ir.Model, opset: int) -> None:
    """Write the nodes of a graph in an older set of operators.

    Raises:
        NotPortable: the set lacks an operator, or has it with another meaning.
    """
    exported = model.opset_imports[""]
    for node in [*model.graph]:
        version = _since(node.op_type, opset)
        if version == _since(node.op_type, exported):
            continue
        lower = LOWERED.get(node.op_type) if version else None
        if lower is None or not lower(model.graph, node):
            raise NotPortable(
                f"{node.op_type}: operator set {opset} has no operator with the meaning that it "
                f"has in set {exported}"
            )
    model.opset_imports[""] = opset


def _since(operator: str, opset: int) -> int:
    """Return the version of an operator in a set of operators; 0 if it is not in it."""
    try:
        return int(onnx.defs.get_schema(operator, opset).since_version)
    except onnx.defs.SchemaError:
        return 0


def _lower_pad(graph: ir.Graph, node: ir.Node) -> bool:
    """Pad every axis: older versions cannot name some of them."""
    axes = constant_of(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None
    if axes is not None:
        pads, rank = constant_of(node.inputs[1]), len(fixed_shape(node.inputs[0]))
        if pads is None:
            return False
        every = np.zeros(2 * rank, np.int64)
        for index, axis in enumerate(axes):
            every[axis % rank] = pads[index]
            every[axis % rank + rank] = pads[index + len(axes)]
        node.replace_input_with(1, add_integers(graph, every.tolist()))
    if len(node.inputs) > 3:
        node.resize_inputs(3)
    return node.attributes.get_string("mode", "constant") != "wrap"


def _lower_resize(graph: ir.Graph, node: ir.Node) -> bool:
    """Leave the settings out that older versions do not have, if they have their defaults."""
    newer = {"antialias": 0, "keep_aspect_ratio_policy": "stretch", "axes": None}
    for name, default in newer.items():
        attribute = node.attributes.pop(name, None)
        if attribute is not None and attribute.value != default:
            return False
    return True


def _lower_reduction(graph: ir.Graph, node: ir.Node) -> bool:
    """Name the axes by an attribute instead of an input."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = constant_of(node.inputs[1])
        if axes is None:
            return False
        node.attributes.add(ir.AttrInt64s("axes", [int(axis) for axis in axes]))
        node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)
    return True


def _lower_split(graph: ir.Graph, node: ir.Node) -> bool:
    """Give the sizes of the parts instead of their number."""
    if node.attributes.pop("num_outputs", None) is not None:
        axis = node.attributes.get_int("axis", 0)
        sizes = [int(fixed_shape(output)[axis]) for output in node.outputs]
        node.resize_inputs(2)
        node.replace_input_with(1, add_integers(graph, sizes))
    return True


REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceL1")
LOWERED: dict[str, Callable[[ir.Graph, ir.Node], bool]] = {
    "Pad": _lower_pad,
    "Resize": _lower_resize,
    "Split": _lower_split,
    **dict.fromkeys(REDUCTIONS, _lower_reduction),
}
"""By operator: rewrites a node in place for an older set; false if the older one cannot say it."""
