"""Measure the activation memory of a call, and add it up over a sequence of calls.

Counted are the storages that operations of the call allocate. Views and in-place operations add
nothing. Parameters, buffers, the arguments of the call and the scratch memory of kernels are not
counted.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Footprint:
    """Bytes of activations that a call adds to those alive before it."""

    peak: int
    """Maximum at any moment of the call, its output included."""
    held: int
    """Bytes that the output keeps alive; 0 if the output is a view of the input."""

    def __post_init__(self) -> None:
        if not 0 <= self.held <= self.peak:
            raise ValueError(f"held must lie in 0..peak, but is {self.held} of {self.peak} bytes")


class AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow each storage allocated by an operation in the `with` block until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak = 0
        self._followed: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # A storage that is read but was not allocated here existed before: a parameter or input.
        for argument in _tensors_in((args, kwargs)):
            self._follow(argument, 0)
        out = func(*args, **(kwargs or {}))
        for result in _tensors_in(out):
            self._follow(result, result.untyped_storage().nbytes())
        self.peak = max(self.peak, self.live_bytes)
        return out

    def _follow(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._followed:
            return
        self._followed.add(id(storage))
        self.live_bytes += size
        # A storage keeps its Python object, and therefore its id, while any tensor refers to it.
        weakref.finalize(storage, self._freed, id(storage), size).atexit = False

    def _freed(self, key: int, size: int) -> None:
        self._followed.discard(key)
        self.live_bytes -= size


@torch.no_grad()
def run_with_footprint(call: Callable[[Any], Any], argument: Any) -> tuple[Any, Footprint]:
    """Return the result of `call(argument)` and its footprint; `argument` stays alive."""
    with AllocationTracker() as tracker:
        result = call(argument)
    return result, Footprint(tracker.peak, tracker.live_bytes)


class ActivationLedger:
    """Add up the bytes alive while calls with known footprints run one after another.

    Values are identified by any hashable key. A view keeps the value that it views alive.
    """

    def __init__(self) -> None:
        self.live_bytes = 0
        self._base: dict[Hashable, Hashable] = {}
        self._held: dict[Hashable, int] = {}
        self._views: Counter[Hashable] = Counter()

    def add(self, value: Hashable, size: int) -> None:
        """Add a value of `size` bytes that exists before the first call."""
        self._keep(value, value, size)

    def run(self, makes: Hashable, reads: Hashable, footprint: Footprint) -> int:
        """Record a call that makes one value, and return the peak of live bytes during it.

        A value with a footprint that holds nothing counts as a view of `reads`.
        """
        peak = self.live_bytes + footprint.peak
        self._keep(makes, makes if footprint.held else self._base[reads], footprint.held)
        return peak

    def free(self, value: Hashable) -> None:
        """Drop a value; its bytes are freed with the last view of them."""
        base = self._base.pop(value)
        self._views[base] -= 1
        if not self._views[base]:
            self.live_bytes -= self._held.pop(base)

    def _keep(self, value: Hashable, base: Hashable, size: int) -> None:
        self._base[value] = base
        self._views[base] += 1
        self._held.setdefault(base, size)
        self.live_bytes += size


def _tensors_in(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
