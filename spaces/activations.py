"""How many bytes of activations are alive at once: read off a call, and added up over many.

What is counted is the storages that the call's own operations make, as the allocator is asked for
them: views and in-place operations add nothing; parameters, buffers, what the call is handed, and
what a kernel takes for itself while it runs are not counted.
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
    """Bytes of activations that a call adds to those that are alive before it."""

    peak: int
    """Most at any moment of the call, its output included."""
    held: int
    """What its output keeps alive after it; 0 if the output is a view of what the call reads."""

    def __post_init__(self) -> None:
        if not 0 <= self.held <= self.peak:
            raise ValueError(f"a footprint holds {self.held} of a peak of {self.peak} bytes")


class AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, follows every storage that an operation makes until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # What an operation reads and none has made was there before: parameters and inputs.
        for read in _tensors_in((args, kwargs)):
            self._follow(read, 0)
        out = func(*args, **(kwargs or {}))
        for made in _tensors_in(out):
            self._follow(made, made.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _follow(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self.now += size
        # A storage keeps its Python object, and so its id, for as long as any tensor has it.
        weakref.finalize(storage, self._freed, id(storage), size).atexit = False

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@torch.no_grad()
def run_with_footprint(call: Callable[[Any], Any], given: Any) -> tuple[Any, Footprint]:
    """What `call(given)` answers, and its footprint; `given` is alive throughout."""
    with AllocationTracker() as alive:
        answer = call(given)
    return answer, Footprint(alive.peak, alive.now)


class ActivationLedger:
    """Bytes alive while calls of known footprint run one after another; values have any keys.

    A value that is a view keeps alive what it is a view of.
    """

    def __init__(self) -> None:
        self.now = 0
        self._base: dict[Hashable, Hashable] = {}
        self._held: dict[Hashable, int] = {}
        self._views: Counter[Hashable] = Counter()

    def give(self, value: Hashable, size: int) -> None:
        """A value that is there from the beginning."""
        self._keep(value, value, size)

    def run(self, makes: Hashable, reads: Hashable, footprint: Footprint) -> int:
        """The peak of a call that makes one value; one that holds nothing is a view of `reads`."""
        peak = self.now + footprint.peak
        self._keep(makes, makes if footprint.held else self._base[reads], footprint.held)
        return peak

    def free(self, value: Hashable) -> None:
        base = self._base.pop(value)
        self._views[base] -= 1
        if not self._views[base]:
            self.now -= self._held.pop(base)

    def _keep(self, value: Hashable, base: Hashable, size: int) -> None:
        self._base[value] = base
        self._views[base] += 1
        self._held.setdefault(base, size)
        self.now += size


def _tensors_in(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
