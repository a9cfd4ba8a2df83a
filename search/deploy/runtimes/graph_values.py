"""Read the nodes and tensors of an ONNX graph: shapes, types, constants, axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import numpy_helper

from search.deploy.runtimes.operator_list import Allowed

TYPE_NAMES = {number: name.lower() for name, number in onnx.TensorProto.DataType.items() if number}
"""Name of a type of numbers, as in messages, by its number in a file."""


@dataclass(frozen=True)
class TensorFacts:
    """A tensor of a graph: its dimensions (none if unknown), and the type of its numbers."""

    name: str
    dtype: str
    dims: tuple[int | None, ...] | None
    """A dimension that is not a fixed number is None."""


class GraphValues:
    """The nodes and tensors of a graph, with the shapes that follow from those of its inputs.

    Weights in other files need not be loaded.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self._opset = next((o.version for o in model.opset_import if not o.domain), 1)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes, in the order of the file."""
        return list(self._graph.node)

    @cached_property
    def inputs(self) -> list[TensorFacts]:
        """The inputs of the graph."""
        return [
            _facts_of(value) for value in self._graph.input if value.name not in self._initializers
        ]

    @cached_property
    def outputs(self) -> list[TensorFacts]:
        """The outputs of the graph."""
        return [_facts_of(value) for value in self._graph.output]

    @cached_property
    def weights(self) -> list[TensorFacts]:
        """The tensors that the file holds."""
        return [
            TensorFacts(name, TYPE_NAMES[tensor.data_type], tuple(tensor.dims))
            for name, tensor in self._initializers.items()
        ]

    @cached_property
    def computed(self) -> list[TensorFacts]:
        """The outputs of all nodes."""
        names = [
            name
            for node in self._graph.node
            if node.op_type != "Constant"
            for name in node.output
            if name
        ]
        return [self._by_name.get(name, TensorFacts(name, "unknown", None)) for name in names]

    def rank(self, name: str) -> int | None:
        """Return the number of dimensions of a tensor, if it is known."""
        facts = self._by_name.get(name)
        return None if facts is None or facts.dims is None else len(facts.dims)

    def batch(self, name: str) -> int | None:
        """Return the first dimension of a tensor, if it is known and fixed."""
        facts = self._by_name.get(name)
        return facts.dims[0] if facts is not None and facts.dims else None

    def channel_constants(self, node: onnx.NodeProto) -> list[int]:
        """Return the dimensions of each constant that is joined to the channels of a map."""
        if not any(self.rank(name) == 4 and not self.is_constant(name) for name in node.input):
            return []
        constants = [self._by_name.get(name) for name in node.input if self.is_constant(name)]
        dims = [facts.dims for facts in constants if facts is not None and facts.dims]
        return [len(d) for d in dims if len(d) > 2 and d[-3] != 1 and d[-2:] == (1, 1)]

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is held by the file."""
        return name in self._initializers or name in self._constants

    def constant(self, name: str) -> list[Allowed]:
        """Return the numbers of a constant; none if their file is not loaded."""
        tensor = self._initializers.get(name) or self._constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return []
        return [number.item() for number in numpy_helper.to_array(tensor).reshape(-1)]

    def attribute(self, node: onnx.NodeProto, name: str) -> list[Allowed]:
        """Return the value of an attribute, or its numbers; none if it has none by default."""
        for attribute in node.attribute:
            if attribute.name == name:
                return list(_numbers_or_texts(attribute))
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
        except onnx.defs.SchemaError:
            return []
        declared = schema.attributes.get(name)
        return list(_numbers_or_texts(declared.default_value)) if declared else []

    def axes(self, node: onnx.NodeProto) -> list[Allowed]:
        """Return the axes that a node works along, counted from 0."""
        rank = self.rank(node.input[0]) if node.input else None
        axes = self.attribute(node, "axes") or self.attribute(node, "axis")
        position = AXES_INPUT.get(node.op_type)
        if not axes and position is not None and len(node.input) > position:
            axes = self.constant(node.input[position])
        return [int(axis) % rank for axis in axes] if rank else []

    @cached_property
    def _initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self._graph.initializer}

    @cached_property
    def _constants(self) -> dict[str, onnx.TensorProto]:
        return {
            node.output[0]: attribute.t
            for node in self._graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }

    @cached_property
    def _by_name(self) -> dict[str, TensorFacts]:
        declared = [*self._graph.input, *self._graph.value_info, *self._graph.output]
        return {v.name: _facts_of(v) for v in declared} | {f.name: f for f in self.weights}


AXES_INPUT = {"Slice": 3, "ReduceSum": 1, "Squeeze": 1, "Unsqueeze": 1}
"""By operator: the input that names the axes, where no attribute does."""


def _facts_of(value: onnx.ValueInfoProto) -> TensorFacts:
    tensor = value.type.tensor_type
    dims = None
    if tensor.HasField("shape"):
        dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorFacts(value.name, TYPE_NAMES.get(tensor.elem_type, "unknown"), dims)


def _numbers_or_texts(attribute: onnx.AttributeProto) -> Iterator[Allowed]:
    value = onnx.helper.get_attribute_value(attribute) if attribute.type else ()
    for part in value if isinstance(value, list | tuple) else [value]:
        yield part.decode() if isinstance(part, bytes) else part
