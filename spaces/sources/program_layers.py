"""Turn an exported program into modules that compute the same, with the layers of torch.nn.

An exported program is a list of operations. The rest of merge-search works on modules: a stage
holds layers, and BatchNorms are fused, maps folded and weights stored by layer. So convolutions,
linear layers and BatchNorms are put back in the place of their operations, within the modules that
the network had when it was exported.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.unflatten import InterpreterModule, UnflattenedModule

from spaces.quiet import quiet

aten = torch.ops.aten
CHECKS = (
    aten._assert_tensor_metadata.default, aten._assert_scalar.default,
    aten.sym_constrain_range.default, aten.sym_constrain_range_for_size.default,
)  # fmt: skip
CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""By the number of spatial dimensions."""
BATCHNORMS: dict[int, Any] = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
"""By the number of dimensions of the input."""


def unflattened(program: ExportedProgram) -> nn.Module:
    """Return the modules of a program, whose operations change no tensor in place."""
    with quiet():
        functional = program.run_decompositions({})
        _compute_sizes_where_read(functional.graph)
        return torch.export.unflatten(functional)


def _compute_sizes_where_read(graph: fx.Graph) -> None:
    """Compute each product of sizes in the module that reads it.

    The exporter computes it in the first one, which then passes it on to all others.
    """
    for node in reversed(list(graph.nodes)):
        is_size = isinstance(node.meta.get("val"), torch.SymInt) and node.op == "call_function"
        if not is_size or node.target is aten.sym_size.int:
            continue
        for user in list(node.users):
            with graph.inserting_before(user):
                copied = graph.node_copy(node)
            copied.meta = {**node.meta, **_place(user)}
            user.replace_input_with(node, copied)
        graph.erase_node(node)


def _place(node: fx.Node) -> dict[str, Any]:
    return {key: node.meta[key] for key in ("nn_module_stack",) if key in node.meta}


def as_layers(module: nn.Module) -> nn.Module:
    """Return a module of `torch.export.unflatten` as modules of torch.fx and torch.nn.

    Its tensors are those of the given module, which stays as it is.
    """
    children: dict[str, nn.Module | None] = {
        name: as_layers(child) for name, child in module.named_children()
    }
    original = getattr(module, "graph", None)
    if isinstance(original, fx.Graph) and not original.nodes:  # a list of modules
        module = nn.Module()
        module._modules = children
        return module
    graph = _copy(original, module) if isinstance(original, fx.Graph) else None
    module = copy.copy(module)
    module._modules = children
    if graph is None:
        return module
    for node in list(graph.nodes):
        _simplify(node, graph, module)
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return _lone_layer(graph, module) or _sequence(graph, module) or fx.GraphModule(module, graph)


def _copy(original: fx.Graph, module: nn.Module) -> fx.Graph:
    """Return a copy of a graph in which no module takes the number of frames as an argument.

    Each can tell it from its input; so a module that calls others one after another stays one.
    """
    graph = fx.Graph()  # of its own: the original belongs to another module
    output = graph.graph_copy(original, {})
    if isinstance(module, UnflattenedModule) and isinstance(output, tuple) and len(output) == 1:
        output = output[0]  # a whole program returns a tuple, also of one answer
    graph.output(output)
    for node in list(graph.nodes):
        if node.op == "call_module":
            counts = _counts_of_frames(
                getattr(module.get_submodule(str(node.target)), "graph", None)
            )
            node.args = tuple(arg for k, arg in enumerate(node.args) if k not in counts)
    counts = _counts_of_frames(graph)
    for node in counts.values():
        with graph.inserting_after(_placeholders(graph)[-1]):
            size = graph.call_method("size", (_first_tensor(graph), 0))
        size.meta = node.meta
        node.replace_all_uses_with(size)
        graph.erase_node(node)
    return graph


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _first_tensor(graph: fx.Graph) -> fx.Node | None:
    tensors = (n for n in _placeholders(graph) if isinstance(n.meta.get("val"), Tensor))
    return next(tensors, None)


def _counts_of_frames(graph: fx.Graph | None) -> dict[int, fx.Node]:
    """Return the inputs of a graph that are the first size of its first tensor, by position."""
    first = _first_tensor(graph) if graph else None
    if graph is None or first is None or first.meta["val"].dim() == 0:
        return {}
    frames = first.meta["val"].shape[0]
    return {
        position: node
        for position, node in enumerate(_placeholders(graph))
        if isinstance(node.meta.get("val"), torch.SymInt) and str(node.meta["val"]) == str(frames)
    }


def _simplify(node: fx.Node, graph: fx.Graph, module: nn.Module) -> None:
    """Remove a check of the exporter, or put a layer or a size in the place of an operation."""
    if node.op != "call_function":
        return
    if node.target in CHECKS and not node.users:
        graph.erase_node(node)
    elif node.target is aten.sym_size.int:
        with graph.inserting_before(node):
            size = graph.call_method("size", node.args)
        size.meta = node.meta
        node.replace_all_uses_with(size)
        graph.erase_node(node)
    elif node.target in LAYER_BUILDERS:
        layer = LAYER_BUILDERS[node.target](_arguments(node, module), node)
        if layer is not None:
            _call_layer(node, layer, graph, module)


def _arguments(node: fx.Node, module: nn.Module) -> dict[str, Any]:
    """Return the arguments of an operation by name; tensors that a module holds as themselves."""
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments: dict[str, Any] = {}
    for position, expected in enumerate(node.target._schema.arguments):
        default = node.kwargs.get(expected.name, expected.default_value)
        value: Any = node.args[position] if position < len(node.args) else default
        if isinstance(value, fx.Node) and value.op == "get_attr":
            value = reduce(getattr, str(value.target).split("."), module)
        arguments[expected.name] = value
    return arguments


def _convolution(arguments: Mapping[str, Any], node: fx.Node) -> nn.Module | None:
    weight, bias = arguments["weight"], arguments["bias"]
    if not _are_held(weight, bias) or arguments.get("transposed"):
        return None
    padding = arguments["padding"]
    layer: nn.Module = CONVOLUTIONS[weight.dim() - 2](
        weight.shape[1] * arguments["groups"],
        weight.shape[0],
        tuple(weight.shape[2:]),
        tuple(arguments["stride"]),
        padding if isinstance(padding, str) else tuple(padding),
        tuple(arguments["dilation"]),
        arguments["groups"],
        bias=bias is not None,
        device="meta",
    )
    return _with_tensors(layer, {"weight": weight, "bias": bias})


def _linear(arguments: Mapping[str, Any], node: fx.Node) -> nn.Module | None:
    weight, bias = arguments["weight"], arguments["bias"]
    if not _are_held(weight, bias):
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _with_tensors(layer, {"weight": weight, "bias": bias})


def _batchnorm(arguments: Mapping[str, Any], node: fx.Node) -> nn.Module | None:
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {name: arguments[name] for name in names}
    dimensions = _dimensions(node.args[0])
    if not isinstance(tensors["running_mean"], Tensor) or dimensions not in BATCHNORMS:
        return None
    if not _are_held(tensors["weight"], tensors["bias"]):
        return None
    layer: nn.Module = BATCHNORMS[dimensions](
        tensors["running_mean"].shape[0], arguments["eps"], affine=True, device="meta"
    )
    layer.register_buffer("num_batches_tracked", None)  # only training reads it
    return _with_tensors(layer, tensors).eval()


def _are_held(weight: Any, bias: Any) -> bool:
    """Return whether a weight, and a bias if there is one, are parameters and not computed."""
    return isinstance(weight, nn.Parameter) and isinstance(bias, nn.Parameter | None)


def _dimensions(node: Any) -> int:
    return node.meta["val"].dim() if isinstance(node, fx.Node) else 0


def _with_tensors(layer: nn.Module, tensors: Mapping[str, Tensor | None]) -> nn.Module:
    for name, tensor in tensors.items():
        setattr(layer, name, tensor)
    return layer


LAYER_BUILDERS: dict[Any, Callable[[Mapping[str, Any], fx.Node], nn.Module | None]] = {
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.conv1d.padding: _convolution,
    aten.conv2d.padding: _convolution,
    aten.conv3d.padding: _convolution,
    aten.convolution.default: _convolution,
    aten.linear.default: _linear,
    aten._native_batch_norm_legit_no_training.default: _batchnorm,
}


def _call_layer(node: fx.Node, layer: nn.Module, graph: fx.Graph, module: nn.Module) -> None:
    """Call a layer in the place of an operation that returns a tensor, or one first in a tuple."""
    name = node.name.strip("_")
    while hasattr(module, name):
        name += "_"
    module.add_module(name, layer)
    with graph.inserting_before(node):
        call = graph.create_node("call_module", name, (node.args[0],))
    call.meta = dict(node.meta)
    outputs = [user for user in node.users if user.target is operator.getitem]
    if isinstance(node.meta.get("val"), Tensor):
        node.replace_all_uses_with(call)
    else:
        call.meta["val"] = node.meta["val"][0]
        for output in outputs:
            output.replace_all_uses_with(call)
            graph.erase_node(output)
    graph.erase_node(node)


def _lone_layer(graph: fx.Graph, module: nn.Module) -> nn.Module | None:
    """Return the only layer that a graph calls, if it does nothing else."""
    calls = _chained_calls(graph)
    layer = module.get_submodule(calls[0]) if len(calls) == 1 else None
    return (
        layer if type(layer) in {*CONVOLUTIONS.values(), *BATCHNORMS.values(), nn.Linear} else None
    )


def _sequence(graph: fx.Graph, module: nn.Module) -> nn.Module | None:
    """Return a module that was a sequence as one."""
    if not (
        isinstance(module, InterpreterModule) and str(module.type_name()).endswith("Sequential")
    ):
        return None
    sequence = nn.Sequential()
    for name in _chained_calls(graph):
        if "." in name:
            return None
        sequence.add_module(name, module.get_submodule(name))
    return sequence if len(sequence) else None


def _chained_calls(graph: fx.Graph) -> list[str]:
    """Return the modules that a graph calls, each on the output of the one before; or none."""
    names: list[str] = []
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "output":
            return names if node.args[0] is previous and len(set(names)) == len(names) else []
        if node.op == "call_module" and node.args == (previous,):
            names.append(str(node.target))
        elif node.op != "placeholder" or previous is not None:
            return []
        previous = node
    return []
