"""Cut a network into named stages and a head, where its dataflow allows it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, fx, nn

from spaces.dataflow import (
    MATRIX_LAYERS,
    Dataflow,
    Trunk,
    Uncuttable,
    find_trunk,
    has_matrix,
    last_layers,
)
from spaces.model_spec import Cut
from spaces.network_graph import ENDS, Untraceable, trace_within
from spaces.representation_form import Form
from spaces.stage_modules import head_module, stage_module
from spaces.stages import Grid

ONE_POSITION = (None, (1, 1))
"""The grids of pooled features."""
FEWEST_BLOCKS = 4
"""Modules of a network with fewer blocks are opened, the largest first."""
MOST_OPENINGS = 6
MOST_IN_ONE = 0.95
"""Largest share of the weights that one stage or the head may hold."""


@dataclass(frozen=True)
class Hints:
    """What a library says of a network."""

    containers: frozenset[str] = frozenset()
    """Paths of the modules that contain stages."""
    classifier: tuple[nn.Module, ...] = ()
    """The layers with which the head begins, at the latest."""
    prefix: int | None = None
    """Number of tokens without a position."""
    outputs: Literal["answer", "representations"] = "answer"
    """Whether its outputs are the answer, whose last layers belong to the head, or what a head
    outside of it reads."""


NO_HINTS = Hints()


@dataclass(frozen=True)
class CutNetwork:
    """A network as a chain of stages and a head."""

    names: tuple[str, ...]
    stages: tuple[nn.Module, ...]
    taps: tuple[str, ...]
    head: nn.Module
    """It takes one argument for each tap."""


def cut_network(net: nn.Module, example: Tensor, cut: Cut, hints: Hints = NO_HINTS) -> CutNetwork:
    """Cut a network; `example` is an input of two frames.

    Raises:
        Uncuttable: it has no two stages.
    """
    try:
        traced = _opened(net, example, hints)
        if cut == "blocks":
            traced = _opened_blocks(traced, example, hints)
    except Untraceable as error:
        raise Uncuttable(f"its forward pass cannot be traced: {error}") from error
    flow, trunk = traced.flow, traced.trunk
    groups = _group(traced.units, trunk.taps)
    pieces = [tuple(node for unit in group for node in unit.nodes) for group in groups]
    _check_division(flow, [*pieces, trunk.head])
    names, ends = _stage_names(groups), [group[-1].point for group in groups]
    stages = [
        stage_module(flow, nodes, start, end)
        for nodes, (start, end) in zip(pieces, pairwise([flow.example, *ends]), strict=True)
    ]
    taps = [end for end in ends if end in trunk.taps]
    return CutNetwork(
        tuple(names),
        tuple(stages),
        tuple(names[ends.index(tap)] for tap in taps),
        head_module(flow, trunk.head, taps),
    )


@dataclass(frozen=True)
class _Unit:
    """The smallest part of a trunk that ends with a module."""

    name: str
    """Path of the module that it ends with; empty if it ends with none."""
    nodes: tuple[fx.Node, ...]
    modules: tuple[nn.Module, ...]
    """Its modules with weight matrices."""
    grid: Grid
    """Grid of its representation; None if that is pooled."""
    is_pool: bool
    """Whether it turns positions into pooled features."""

    @property
    def point(self) -> fx.Node:
        return self.nodes[-1]

    @property
    def is_block(self) -> bool:
        """Whether it holds several layers with weight matrices, or one inside a module.

        Layers on pooled features are none: they belong to what comes after the trunk.
        """
        inner = len(self.modules) > 1 or any(map(_is_block, self.modules))
        return inner and self.grid is not None

    @property
    def is_deep(self) -> bool:
        """Whether it ends with a module and holds several layers with weight matrices."""
        layers = sum(isinstance(p, MATRIX_LAYERS) for m in self.modules for p in m.modules())
        return bool(self.point.meta[ENDS]) and layers > 1

    @property
    def is_layer(self) -> bool:
        """Whether it is one layer with a weight matrix."""
        return any(isinstance(module, MATRIX_LAYERS) for module in self.modules)


@dataclass(frozen=True)
class _Traced:
    """A network that was traced through some of its modules."""

    flow: Dataflow
    trunk: Trunk
    units: list[_Unit]
    opened: frozenset[str]
    """Paths of the modules that were traced through."""

    @property
    def blocks(self) -> list[_Unit]:
        return [unit for unit in self.units if unit.is_block]


def _trace(net: nn.Module, example: Tensor, opened: Collection[str], hints: Hints) -> _Traced:
    graph, within = trace_within(net, example, opened)
    flow = Dataflow(net, graph, hints.prefix)
    trunk = find_trunk(flow, _head_nodes(flow, hints))
    return _Traced(flow, trunk, list(_units(flow, trunk)), within)


def _head_nodes(flow: Dataflow, hints: Hints) -> Collection[fx.Node]:
    """Return the nodes with which the head begins, at the latest."""
    classifier = {node for node in flow.nodes if flow.module_of(node) in hints.classifier}
    if classifier or hints.outputs == "representations":
        return classifier
    return last_layers(flow)


def _units(flow: Dataflow, trunk: Trunk) -> Iterator[_Unit]:
    points = [
        point
        for point in trunk.points
        if point.meta[ENDS] or point in trunk.taps or point is trunk.points[-1]
    ]
    before: Form | None = None
    for nodes in trunk.pieces(points):
        name, after = _module_name(flow.net, nodes[-1]), flow.form(nodes[-1])
        modules = tuple(m for m in map(flow.module_of, nodes) if m and has_matrix(m))
        is_pool = not modules and _pools(before, after)
        yield _Unit(name, nodes, modules, after.grid if after else None, is_pool)
        before = after


def _module_name(net: nn.Module, node: fx.Node) -> str:
    """Return the path of the outermost module that a node ends and that is not just a sequence."""
    ends = node.meta[ENDS]
    outer = [path for path in ends if not isinstance(net.get_submodule(path), nn.Sequential)]
    path = outer[-1] if outer else (ends or [""])[0]
    return str(path).removeprefix("head.")


def _pools(before: Form | None, after: Form | None) -> bool:
    """Return whether several positions become one."""
    if before is None or after is None:
        return False
    return before.grid not in ONE_POSITION and after.grid in ONE_POSITION


# From units to stages.


def _group(units: Sequence[_Unit], taps: Collection[fx.Node]) -> list[list[_Unit]]:
    """Group units into stages: a stem, one stage per block, the last layers, the pool.

    Everything before the first block is the stem. After that, a new stage starts at each block, at
    each layer with a weight matrix, at the pooling, and after each tap; other layers join the
    stage before them. A network of one block or none has no stem before it.
    """
    blocks = [unit for unit in units if unit.is_block]
    groups: list[list[_Unit]] = [[]]
    stem = units[: units.index(blocks[0])] if len(blocks) > 1 else []
    for unit in units:
        starts = unit not in stem and (unit.is_block or unit.is_layer or unit.is_pool)
        after_tap = bool(groups[-1]) and groups[-1][-1].point in taps
        if groups[-1] and (starts or after_tap):
            groups.append([])
        groups[-1].append(unit)
    return groups


def _stage_names(groups: Sequence[Sequence[_Unit]]) -> list[str]:
    """Return the names of stages; a name that is taken gets a number."""
    names: list[str] = []
    for group in groups:
        name = _stage_name(group, is_first=not names)
        count = sum(other.partition("~")[0] == name for other in names)
        names.append(f"{name}~{count + 1}" if count else name)
    return names


def _stage_name(group: Sequence[_Unit], is_first: bool) -> str:
    """Return `pool`, `stem`, or the path of the first module, or of one around it that ends."""
    if group[0].is_pool:
        return "pool"
    if is_first and not group[0].is_block:
        return "stem"
    named = [unit.name for unit in group if unit.name]
    if not named:
        return "last"
    is_around = "." in named[-1] and named[0].startswith(f"{named[-1]}.")
    return named[-1] if is_around else named[0]


# Which modules are opened.


def _opened(net: nn.Module, example: Tensor, hints: Hints) -> _Traced:
    """Trace a network through its containers, and through large modules while blocks are few."""
    opened = hints.containers | _ancestors(net, hints.classifier)
    traced = _trace(net, example, opened, hints)
    whole: set[str] = set()
    for _ in range(MOST_OPENINGS):
        if len(traced.blocks) >= FEWEST_BLOCKS:
            break
        largest = _largest_module(traced.flow, whole)
        if largest is None:
            break
        further = _trace(net, example, traced.opened | _openings(net, largest), hints)
        is_sequence = isinstance(net.get_submodule(largest), nn.Sequential)
        gained = [further.units, traced.units] if is_sequence else [further.blocks, traced.blocks]
        if len(gained[0]) > len(gained[1]):
            traced = further
        else:
            whole.add(largest)
    return traced


def _opened_blocks(traced: _Traced, example: Tensor, hints: Hints) -> _Traced:
    """Trace a network also through its blocks that are chains of at least two blocks."""
    net = traced.flow.net
    called = [str(n.target) for u in traced.blocks for n in u.nodes if traced.flow.module_of(n)]
    openings = {path: _openings(net, path) for path in called}
    every = _trace(net, example, traced.opened.union(*openings.values()), hints)
    inner = [unit.point.meta[ENDS][0] for unit in every.blocks if unit.is_deep]
    chains = [
        path
        for path in called
        if _is_sequence_of_blocks(net.get_submodule(path))
        or sum(end.startswith(f"{path}.") for end in inner) > 1
    ]
    opened = traced.opened.union(*(openings[path] for path in chains))
    return every if opened == every.opened else _trace(net, example, opened, hints)


def _largest_module(flow: Dataflow, whole: Collection[str]) -> str | None:
    """Return the path of the largest module of the graph that may be opened."""
    sizes = {str(n.target): flow.bytes_of(n) for n in flow.nodes if flow.module_of(n)}
    openable = [path for path in sizes if path not in whole and _openings(flow.net, path)]
    return max(openable, key=lambda path: sizes[path], default=None)


def _openings(net: nn.Module, path: str) -> frozenset[str]:
    """Return a module with the sequences of blocks in it; nothing if no module in it is one.

    Of a sequence, only itself.
    """
    module = net.get_submodule(path)
    if not _is_block(module):
        return frozenset()
    if isinstance(module, nn.Sequential):
        return frozenset([path])
    sequences = [
        f"{path}.{name}"
        for name, part in module.named_children()
        if isinstance(part, nn.Sequential) and sum(map(_is_block, part.children())) > 1
    ]
    return frozenset([path, *sequences])


def _is_block(module: nn.Module) -> bool:
    """Return whether a module has a layer with a weight matrix inside."""
    return any(map(has_matrix, module.children()))


def _is_sequence_of_blocks(module: nn.Module) -> bool:
    blocks = [_is_block(part) for part in module.children()]
    return isinstance(module, nn.Sequential) and len(blocks) > 1 and all(blocks)


def _ancestors(net: nn.Module, modules: Collection[nn.Module]) -> set[str]:
    """Return the paths of the modules that contain some modules."""
    paths = [path.split(".") for path, module in net.named_modules() if module in modules]
    return {".".join(path[:length]) for path in paths for length in range(1, len(path))}


def _check_division(flow: Dataflow, pieces: Sequence[Sequence[fx.Node]]) -> None:
    """Check that the stages and the head divide the weights.

    Raises:
        Uncuttable: one of them holds nearly all.
    """
    sizes = [sum(map(flow.bytes_of, piece)) for piece in pieces]
    share = max(sizes) / max(1, sum(sizes))
    if share > MOST_IN_ONE:
        nodes = pieces[sizes.index(max(sizes))]
        modules = [str(node.target) for node in nodes if flow.bytes_of(node)]
        raise Uncuttable(
            f"{modules[0]} to {modules[-1]}, with {share:.0%} of its weights, pass on several "
            "tensors at once, or read earlier ones"
            if len(modules) > 1
            else f"{modules[0]}, with {share:.0%} of its weights, is not a chain of modules"
        )
