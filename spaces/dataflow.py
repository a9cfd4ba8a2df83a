"""Find where a traced network may be cut: at tensors through which everything passes.

A point is such a tensor: no later node reads what was computed before it. The trunk is a chain of
points; the layers between two of them become a stage. The head is the rest of the network. It may
read several points of the trunk, its taps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, fx, nn

from spaces.errors import MergeSearchError
from spaces.network_graph import VALUE
from spaces.representation_form import Form, form_of
from spaces.stages import total_bytes, unique_tensors

MATRIX_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class Uncuttable(MergeSearchError):
    """Why a network cannot be cut."""


@dataclass(frozen=True)
class Trunk:
    """A chain of points, and the head that reads some of them."""

    nodes: tuple[fx.Node, ...]
    """The nodes up to the last point, in order, without the input."""
    points: tuple[fx.Node, ...]
    taps: frozenset[fx.Node]
    """The points that the head reads."""
    head: tuple[fx.Node, ...]
    """The nodes that are not on the trunk, in order."""

    def pieces(self, points: Sequence[fx.Node]) -> list[tuple[fx.Node, ...]]:
        """Return the nodes up to the first of some points, then those up to each next one."""
        position = {node: k for k, node in enumerate(self.nodes)}
        ends = [position[point] + 1 for point in points]
        return [self.nodes[start:end] for start, end in pairwise([0, *ends])]


class Dataflow:
    """The nodes of a graph whose values change with the frames, and what they read of each other.

    `prefix` is the number of tokens without a position, if the network says so.
    """

    def __init__(self, net: nn.Module, graph: fx.Graph, prefix: int | None) -> None:
        self.net = net
        self._prefix = prefix
        self._forms: dict[fx.Node, Form | None] = {}
        self._sizes: dict[fx.Node, int] = {}
        every = list(graph.nodes)
        self.example, self.end = every[0], every[-1]
        self._changing = {self.example}
        for node in every[1:]:
            if not self.counts_frames(node) and self.reads(node):
                self._changing.add(node)
        self.outputs = self.reads(self.end)
        alive = self.upstream(self.outputs)
        self.nodes = [node for node in every if node in alive]
        self.position = {node: k for k, node in enumerate(self.nodes)}

    def reads(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes that a node reads and whose values change with the frames."""
        return [read for read in node.all_input_nodes if read in self._changing]

    def counts_frames(self, node: fx.Node) -> bool:
        """Return whether a node is the number of frames, which a stage can tell from its input."""
        is_size = node.op == "call_method" and node.target == "size" and node.args[1:] == (0,)
        return is_size and bool(node.meta[VALUE] == len(self.example.meta[VALUE]))

    def upstream(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Return the nodes and all that they depend on."""
        found: set[fx.Node] = set()
        queue = list(nodes)
        while queue:
            node = queue.pop()
            if node not in found:
                found.add(node)
                queue += self.reads(node)
        return found

    def downstream(self, nodes: Collection[fx.Node]) -> set[fx.Node]:
        """Return the nodes and all that depend on them."""
        found = set(nodes)
        for node in self.nodes:
            if found.intersection(self.reads(node)):
                found.add(node)
        return found

    def form(self, node: fx.Node) -> Form | None:
        """Return the form of the representation that a node is; None if it is none."""
        if node not in self._forms:
            self._forms[node] = self._form(node.meta[VALUE], self.example.meta[VALUE])
        return self._forms[node]

    def _form(self, value: object, example: Tensor) -> Form | None:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        if value.shape[:1] != example.shape[:1]:
            return None
        return form_of(tuple(value.shape), (example.shape[-2], example.shape[-1]), self._prefix)

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls, if it does."""
        return self.net.get_submodule(str(node.target)) if node.op == "call_module" else None

    def bytes_of(self, node: fx.Node) -> int:
        """Return the bytes of the module that a node calls."""
        if node not in self._sizes:
            module = self.module_of(node)
            self._sizes[node] = total_bytes(unique_tensors(module)) if module else 0
        return self._sizes[node]


def has_matrix(module: nn.Module) -> bool:
    """Return whether a module has a weight matrix, itself or inside."""
    return any(isinstance(part, MATRIX_LAYERS) for part in module.modules())


def find_trunk(flow: Dataflow, head: Collection[fx.Node]) -> Trunk:
    """Return the trunk that divides the weights most evenly over its stages and the head.

    The nodes of `head` belong to the head.

    Raises:
        Uncuttable: there is no point.
    """
    if not flow.outputs:
        raise Uncuttable("its outputs are taken from inside its modules, by hooks")
    after = flow.downstream(head)
    ends = [node for node in flow.nodes[1:] if node not in after and flow.form(node)]
    trunks = [trunk for trunk in (_trunk_to(end, flow) for end in ends) if trunk]
    if not trunks:
        raise Uncuttable("no tensor but its answer is one that everything passes through")
    return min(trunks, key=lambda t: (_unevenness(t, flow), -flow.position[t.points[-1]]))


def last_layers(flow: Dataflow) -> set[fx.Node]:
    """Return the last layer with a weight matrix before each output."""
    layers = [node for node in flow.nodes if (m := flow.module_of(node)) and has_matrix(m)]
    before_each = [flow.upstream([output]).intersection(layers) for output in flow.outputs]
    return {max(before, key=flow.position.__getitem__) for before in before_each if before}


def _trunk_to(end: fx.Node, flow: Dataflow) -> Trunk | None:
    """Return the trunk that ends with a node; None if the head reads something within a stage."""
    upstream = flow.upstream([end])
    nodes = tuple(node for node in flow.nodes[1:] if node in upstream)
    head = tuple(node for node in flow.nodes[1:] if node not in upstream)
    taps = {read for node in head for read in flow.reads(node) if read in upstream}
    taps |= upstream.intersection(flow.outputs)
    points = [node for node in _passed_by_all(nodes, flow) if flow.form(node)]
    return Trunk(nodes, tuple(points), frozenset(taps), head) if taps <= set(points) else None


def _passed_by_all(nodes: Sequence[fx.Node], flow: Dataflow) -> Iterator[fx.Node]:
    """Yield the nodes over which no read jumps."""
    last_read: dict[fx.Node, int] = {}
    for node in nodes:
        last_read |= dict.fromkeys(flow.reads(node), flow.position[node])
    reach = last_read[flow.example]
    for node in nodes:
        if reach <= flow.position[node]:
            yield node
        reach = max(reach, last_read.get(node, 0))


def _unevenness(trunk: Trunk, flow: Dataflow) -> int:
    """Return the sum of the squared bytes of the stages and the head."""
    pieces = [*trunk.pieces(trunk.points), trunk.head]
    return sum(sum(map(flow.bytes_of, piece)) ** 2 for piece in pieces)
