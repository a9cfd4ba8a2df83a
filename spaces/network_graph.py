"""Trace a network into a graph of its modules, with real tensors.

The modules that are not opened stay whole, as nodes of the graph. The rest is traced with real
values, so that code which depends on shapes takes the branch that the network's input size takes.
Only the number of frames stays open.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from spaces.errors import MergeSearchError

VALUE = "value"
"""Key of `fx.Node.meta`: what the node computes for the example."""
ENDS = "ends"
"""Key of `fx.Node.meta`: paths of the modules whose output the node is, innermost first."""
DEPENDS = "depends"
"""Key of `fx.Node.meta`: whether the node depends on the frames or on their number."""
CONSTANT = "_tensor_constant"
KNOWN_OF_TENSORS = {
    "device", "dim", "dtype", "get_device", "is_contiguous", "is_cuda", "is_floating_point",
    "layout", "ndim", "numel", "requires_grad",
}  # fmt: skip
"""What code may ask of a tensor without reading its data."""


class Untraceable(MergeSearchError):
    """The code of a module cannot be traced; `path` is that of the module."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path


def trace(net: nn.Module, example: Tensor, opened: Collection[str]) -> fx.Graph:
    """Return the graph of a network's forward pass, with the value and the ends of each node.

    `opened` are the paths of the modules that are traced through, besides the network itself. The
    values are tensors without data, if the code of the network does not depend on data.

    Raises:
        Untraceable: the code of an opened module depends on values that change with the frame.
    """
    try:
        with torch.device("meta"):
            return _trace(_copy_like(net, "meta"), example.to("meta"), opened)
    except Untraceable:
        pass
    if not example.is_meta:
        return _trace(net, example, opened)
    with torch.device("cpu"):
        filled = _copy_like(net, "cpu")
        graph = _trace(filled, torch.zeros_like(example, device="cpu"), opened)
    for name in _constants(graph):
        setattr(net, name, getattr(filled, name))
    return graph


def _copy_like(net: nn.Module, device: str) -> nn.Module:
    """Return a copy of a network with zeros on another device; on `meta`, they take no memory."""
    copies: dict[int, Any] = {
        id(buffer): torch.zeros_like(buffer, device=device) for buffer in net.buffers()
    }
    for parameter in net.parameters():
        zeros = torch.zeros_like(parameter, device=device)
        copies[id(parameter)] = nn.Parameter(zeros, requires_grad=False)
    return copy.deepcopy(net, copies)


def _constants(graph: fx.Graph) -> list[str]:
    """Return the names under which a tracer has kept tensors that the code of a network makes."""
    names = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    return [name for name in names if name.startswith(CONSTANT)]


def _trace(net: nn.Module, example: Tensor, opened: Collection[str]) -> fx.Graph:
    tracer = _Tracer(example, opened)
    try:
        with torch.no_grad():
            graph = tracer.trace(net)
    except Exception as error:
        # Any exception of the network's own code may be raised here.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Untraceable(tracer.path_of_failure, reason) from error
    for node in graph.nodes:
        node.meta.setdefault(ENDS, [])
    if example.is_meta and _constants(graph):
        raise Untraceable("", "its constants have no data")
    return graph


def trace_within(
    net: nn.Module, example: Tensor, opened: Collection[str]
) -> tuple[fx.Graph, frozenset[str]]:
    """Return the graph of a network, and the paths that were traced through: those that could be.

    Raises:
        Untraceable: the network's own forward pass cannot be traced.
    """
    remaining = set(opened)
    while True:
        try:
            return trace(net, example, remaining), frozenset(remaining)
        except Untraceable as error:
            if error.path not in remaining:
                raise
            remaining.discard(error.path)


class _Tracer(fx.Tracer):
    """Record modules as nodes, and compute the value of every node as it is recorded."""

    proxy_buffer_attributes = True

    def __init__(self, example: Tensor, opened: Collection[str]) -> None:
        super().__init__()
        self._example = example
        self._opened = frozenset(opened)
        self._installed: set[nn.Module] = set()
        self._entered = [""]
        self._computing = False
        self.path_of_failure = ""

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Trace with the first argument only; the others have their defaults."""
        self._installed = set(self.root.modules())
        name = next(iter(inspect.signature(self.root.forward).parameters))
        return root_fn, [self.root, self.create_proxy("placeholder", name, (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._opened

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._computing or m not in self._installed:  # a slice of a sequence is not installed
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        opened = not self.is_leaf_module(m, path)
        if opened:
            self._entered.append(path)
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.path_of_failure = self.path_of_failure or self._entered[-1]
            raise
        if opened:
            self._entered.pop()
        for part in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(part, fx.Proxy):
                part.node.meta.setdefault(ENDS, []).append(path)
        return output

    def create_node(self, *arguments: Any, **options: Any) -> fx.Node:
        node = super().create_node(*arguments, **options)
        node.meta[DEPENDS] = node.op == "placeholder" or any(
            read.meta[DEPENDS] for read in node.all_input_nodes
        )
        self._computing = True  # modules that are called, and their parameters, are not recorded
        try:
            node.meta[VALUE] = self._value(node)
        finally:
            self._computing = False
        return node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._computing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, target: Any, *arguments: Any, **options: Any) -> Any:
        proxy = super().create_proxy(kind, target, *arguments, **options)
        if target is F.dropout and not proxy.node.kwargs.get("training", True):
            return self.proxy(proxy.node.all_input_nodes[0])  # it does nothing
        if target is not operator.getitem:
            return proxy
        # A module may return several tensors, and sizes, which are the same for all frames.
        value, source = proxy.node.meta[VALUE], proxy.node.args[0]
        if isinstance(source, fx.Node) and not isinstance(source.meta[VALUE], Tensor):
            proxy.node.meta[ENDS] = list(source.meta.get(ENDS, []))
        return value if self._is_size(value) else proxy

    def _is_size(self, value: Any) -> bool:
        if isinstance(value, (tuple, list)):
            return all(map(self._is_size, value))
        return isinstance(value, int) and value != len(self._example)

    def create_arg(self, a: Any) -> Any:
        return a.node if type(a) is _ValueProxy else super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _ValueProxy(node, self)

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._example
        if node.op == "output":
            return None
        args = _mutable(fx.node.map_arg(node.args, lambda n: n.meta[VALUE]))
        kwargs = _mutable(fx.node.map_arg(node.kwargs, lambda n: n.meta[VALUE]))
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


class _ValueProxy(fx.Proxy):
    """A proxy that knows its value, so that code may branch on shapes and numbers."""

    @property
    def _value(self) -> Any:
        return self.node.meta[VALUE]

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The type of the value, for code that asks whether it is a tensor."""
        return Tensor if isinstance(self.node.meta.get(VALUE), Tensor) else _ValueProxy

    def __getattr__(self, name: str) -> Any:
        if name == "_is_param":  # what `isinstance(x, nn.Parameter)` asks a tensor
            return False
        value = self.node.meta.get(VALUE)
        if isinstance(value, Tensor):
            if name == "shape":
                return self._sizes()
            if name == "size":
                return lambda dim=None: self._sizes() if dim is None else self._sizes()[dim]
            if name in KNOWN_OF_TENSORS:
                return getattr(value, name)
        return super().__getattr__(name)

    def _sizes(self) -> tuple[Any, ...]:
        """Return the number of frames as a proxy, and all other sizes as numbers."""
        shape = self._value.shape
        if not shape or not self.node.meta[DEPENDS]:
            return tuple(shape)
        first = self.tracer.create_proxy("call_method", "size", (self, 0), {})
        return (first, *shape[1:])

    def __len__(self) -> int:
        return len(self._value)

    def __bool__(self) -> bool:
        if isinstance(self._value, Tensor):
            return super().__bool__()
        return bool(self._value)

    def __index__(self) -> int:
        return operator.index(self._value)

    def __iter__(self) -> Iterator[Any]:
        if not isinstance(self._value, (tuple, list, Tensor)):
            return super().__iter__()
        parts: Any = self
        return iter([parts[k] for k in range(len(self._value))])


def _mutable(values: Any) -> Any:
    """Return ordinary lists and dicts in the place of those that fx protects."""
    if isinstance(values, (list, tuple)):
        copied = [_mutable(value) for value in values]
        return tuple(copied) if isinstance(values, tuple) else copied
    if isinstance(values, dict):
        return {key: _mutable(value) for key, value in values.items()}
    return values
