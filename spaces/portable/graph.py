"""Rewrite an exported ONNX graph so that the compilers of boxes take it.

The graph has fixed shapes. Normalisations are folded into convolutions, or become a product and a
sum per channel; stacks of maps that are summed become sums, which need a dimension less; reads at
constant places become slices; and the graph is written in an older set of operators.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import optimize_ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import _fuse_pad_into_conv

from spaces.onnx_weights import HALF
from spaces.portable.batchnorms import fold_batchnorm
from spaces.portable.opsets import lower_opset
from spaces.portable.rewrites import (
    add_batch_to_constant,
    add_stack,
    drop_expand,
    pool_mean,
    slice_gather,
    widen_at_load,
)
from spaces.portable.transposes import join_dimensions

EXPORTED_OPSET = 18
"""The oldest set of operators that torch writes."""
LARGEST_FOLDED = 1 << 26
"""Numbers in a tensor that is computed from constants, at most."""

REWRITES = (
    add_stack,
    pool_mean,
    slice_gather,
    drop_expand,
    join_dimensions,
    fold_batchnorm,
    add_batch_to_constant,
)


def convert_integers_on_loading(model: ir.Model) -> None:
    """Let a runtime convert the integer weights of a portable graph once, when it loads it."""
    for node in [*model.graph]:
        widen_at_load(model.graph, node)
    RemoveUnusedNodesPass()(model)


def make_portable(model: ir.Model, opset: int, ir_version: int) -> None:
    """Rewrite a graph in place that was exported with EXPORTED_OPSET and fixed shapes.

    Raises:
        NotPortable: the set of operators lacks one of the graph.
    """
    _fold_constants(model)
    for change in REWRITES:
        for node in [*model.graph]:
            change(model.graph, node)
    rewrite(model, pattern_rewrite_rules=_fuse_pad_into_conv.rules)
    _fold_constants(model)
    lower_opset(model, opset)
    model.ir_version = ir_version


def _fold_constants(model: ir.Model) -> None:
    optimize_ir(
        model,
        input_size_limit=LARGEST_FOLDED,
        output_size_limit=LARGEST_FOLDED,
        should_fold=lambda node: False if _reads_stored(node) else None,
    )


def _reads_stored(node: ir.Node) -> bool:
    """Return whether a node makes float32 weights of those that are stored in fewer bytes."""
    if node.op_type == "DequantizeLinear":
        return True
    if node.op_type == "Mul":
        return any(_reads_stored(maker) for maker in node.predecessors())
    source = node.inputs[0] if node.op_type == "Cast" else None
    return source is not None and source.dtype in HALF
