"""Operations of an exported program that overwrite their input, such as `relu_`."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.fx import Node


def replace_in_place(program: torch.export.ExportedProgram) -> None:
    """Let operations that overwrite their input return a new tensor, where no other reads it.

    The answers stay the same. Torch replaces them in each conversion too, but takes a quarter of a
    second for each ReLU6 if the graph takes batches of any size.
    """
    for node in program.graph.nodes:
        twin = _out_of_place(node.target)
        if twin is not None and _is_read_by_one(node.args[0]):
            node.target = twin
    program.graph_module.recompile()


def _out_of_place(operation: object) -> OpOverload | None:
    """Return the operation that computes the same as a new tensor; None if there is none."""
    if not isinstance(operation, OpOverload) or operation.namespace != "aten":
        return None
    name, _, overload = operation.__name__.partition(".")
    if not name.endswith("_"):
        return None
    return getattr(getattr(torch.ops.aten, name[:-1], None), overload, None)


def _is_read_by_one(value: object) -> bool:
    """Return whether a value is a tensor of its own, not a view, that one operation reads."""
    return (
        isinstance(value, Node)
        and len(value.users) == 1
        and isinstance(value.target, OpOverload)
        and not any(result.alias_info for result in value.target._schema.returns)
    )
