"""How an ONNX graph reads weights that are stored in fewer bytes.

The exporter writes the conversion to float32 as arithmetic, which its optimiser folds into new
float32 weights. Here, integers are read by the operator that runtimes know for quantised weights,
and no conversion is folded.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.optimizer import optimize_ir

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def optimize_graph(model: ir.Model) -> None:
    """Optimise an exported model in place: its weights stay as they are stored."""
    _dequantize_integers(model.graph)
    optimize_ir(model, should_fold=_should_fold)
    # Where the exporter made a node, with paths of this machine: half of a small file.
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()


def _dequantize_integers(graph: ir.Graph) -> None:
    """Read each integer weight by one `DequantizeLinear` instead of casts and products."""
    floats: dict[ir.Value, ir.Value] = {}
    for product in [node for node in graph if node.op_type == "Mul"]:
        integers, scale = _integer_weight(product)
        if integers is None or scale is None:
            continue
        if integers not in floats:
            inputs = [integers, _per_channel(graph, integers, scale)]
            node = ir.node("DequantizeLinear", inputs, {"axis": 0})
            graph.insert_before(product, node)
            floats[integers] = node.outputs[0]
        product.outputs[0].replace_all_uses_with(floats[integers])


def _integer_weight(product: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the integers and the scales that a node multiplies, if it does."""
    widened, scale = product.inputs
    cast = widened.producer() if widened else None
    if cast is None or cast.op_type != "Cast":
        return None, None
    integers = cast.inputs[0]
    if integers is None or integers.dtype != ir.DataType.INT8:
        return None, None
    return integers, scale


def _per_channel(graph: ir.Graph, integers: ir.Value, scale: ir.Value) -> ir.Value:
    """Add the scales as the operator takes them, (output channels,), and return them."""
    assert scale.const_value is not None
    scales = scale.const_value.numpy().reshape(-1)
    value = ir.Value(
        name=f"{integers.name}.scale",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(scales.shape),
        const_value=ir.tensor(scales),
    )
    graph.register_initializer(value)
    return value


def _should_fold(node: ir.Node) -> bool | None:
    """Refuse to fold a conversion of half precision; leave the rest to the optimiser."""
    source = node.inputs[0] if node.op_type == "Cast" else None
    return False if source is not None and source.dtype in HALF else None
