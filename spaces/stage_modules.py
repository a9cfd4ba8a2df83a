"""Build the modules of stages and heads from the nodes of a traced network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, fx, nn

from spaces.dataflow import Dataflow


def stage_module(
    flow: Dataflow, nodes: Sequence[fx.Node], start: fx.Node, end: fx.Node
) -> nn.Module:
    """Return the module that computes a point from the point before it, or from the input.

    It reads and returns maps, whatever the forms of the points.
    """
    form = flow.form(end)
    assert form is not None  # it is a point
    body = _chain(flow, nodes, start) or [_graph_module(flow, nodes, [start], end)]
    return as_sequence([*_from_map(flow, start), *body, *form.to_map()])


def head_module(flow: Dataflow, nodes: Sequence[fx.Node], taps: Sequence[fx.Node]) -> nn.Module:
    """Return the module that computes the network's output from the maps of its taps, in order."""
    if len(taps) == 1:
        chain = _chain(flow, nodes, taps[0]) if flow.end.args[0] is nodes[-1] else None
        body = chain or [_graph_module(flow, nodes, taps, None)]
        return as_sequence([*_from_map(flow, taps[0]), *body])
    converters = [as_sequence(_from_map(flow, tap)) for tap in taps]
    return _Converted(converters, _graph_module(flow, nodes, taps, None))


class _Converted(nn.Module):
    """Convert each argument, then call a module."""

    def __init__(self, converters: Sequence[nn.Module], body: nn.Module) -> None:
        super().__init__()
        self.converters = nn.ModuleList(converters)
        self.body = body

    def forward(self, *taps: Tensor) -> object:
        converted = [convert(tap) for convert, tap in zip(self.converters, taps, strict=True)]
        return self.body(*converted)


def as_sequence(modules: Sequence[nn.Module]) -> nn.Module:
    """Return one module that calls modules one after another, without those that do nothing."""
    layers = [module for module in modules if not isinstance(module, nn.Identity)]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _from_map(flow: Dataflow, point: fx.Node) -> list[nn.Module]:
    form = None if point is flow.example else flow.form(point)
    return form.from_map() if form else []


def _chain(flow: Dataflow, nodes: Sequence[fx.Node], start: fx.Node) -> list[nn.Module]:
    """Return the modules that nodes call, each on the output of the one before; else none."""
    modules = []
    for previous, node in pairwise([start, *nodes]):
        module = flow.module_of(node)
        if module is None or node.args != (previous,) or node.kwargs:
            return []
        modules.append(module)
    return modules


def _graph_module(
    flow: Dataflow, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], output: fx.Node | None
) -> fx.GraphModule:
    """Return the module of some nodes and of the constants that they read.

    It returns `output`, or all outputs of the network.
    """
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    first = next(iter(copies.values()))

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copies:
            if flow.counts_frames(node):
                copies[node] = graph.call_method("size", (first, 0))
            else:
                copies[node] = graph.node_copy(node, copy_of)
                copies[node].meta = {}  # without the values of the example
        return copies[node]

    for node in nodes:
        copy_of(node)
    graph.output(fx.node.map_arg(output or flow.end.args[0], copy_of))
    return fx.GraphModule(flow.net, graph)
