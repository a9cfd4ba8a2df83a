"""Operations of converted ONNX networks that hold their sizes as numbers."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LARGEST = 2**31
"""An end of a slice beyond any tensor; ONNX's own are larger than torch takes."""
SIZES = {
    "ConstantOfShape": (0,), "Expand": (1,), "Gather": (1,), "Pad": (1, 3), "Reshape": (1,),
    "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4), "Squeeze": (1,), "Tile": (1,), "Unsqueeze": (1,),
    **{f"Reduce{kind}": (1,) for kind in ("Max", "Mean", "Min", "Prod", "Sum", "L2")},
}  # fmt: skip
"""The inputs of operations that are sizes, axes or factors, by their positions."""
ALWAYS_REPLACED = ("Gather", "ReduceMean", "Slice")
"""The operations of onnx2pytorch whose ways are deprecated in torch, or cannot be exported."""
TAKE_LISTS = ("Reshape", "Squeeze", "Unsqueeze", "Reduce")
"""The operations of onnx2pytorch that take them as lists, too."""


def bind_sizes(net: Any) -> None:
    """Make sizes and axes that a converted network reads from its weights parts of its operations.

    `net` is a network of onnx2pytorch. As tensors, they would be read back from the device for
    every batch, and the network could not be exported again.
    """
    from onnx import numpy_helper

    fixed = {t.name: numpy_helper.to_array(t) for t in net.onnx_model.graph.initializer}
    for node in net.onnx_model.graph.node:
        bound = {
            k: fixed[n]
            for k, n in enumerate(node.input)
            if k in SIZES.get(node.op_type, ()) and n in fixed
        }
        if not bound and node.op_type not in ALWAYS_REPLACED:
            continue
        operation = getattr(net, net.mapping[node.output[0]])
        setattr(
            net,
            net.mapping[node.output[0]],
            _bound(node.op_type, operation, bound, len(node.input)),
        )
        kept = [name for k, name in enumerate(node.input) if k not in bound and name]
        del node.input[:]
        node.input.extend(kept)


def _bound(kind: str, operation: Any, bound: dict[int, NDArray[Any]], count: int) -> nn.Module:
    if kind == "Slice" and count > 1:
        is_fixed = len(bound) == count - 1
        fixed = _Slice(*(bound[k].tolist() for k in sorted(bound))) if is_fixed else None
        return fixed or _Bound(_slice, bound, count, takes_lists=False)
    if kind == "Expand" and count == 3:
        return _ExpandFrames(bound[1].tolist()[1:])
    if kind == "ReduceMean" and (bound or operation.dim is not None):
        axes = bound[1].tolist() if bound else operation.dim
        return _Mean(axes, bool(operation.keepdim))
    if kind == "Gather":
        return _Gather(operation.dim, bound[1].tolist() if bound else None)
    if not bound:
        return operation  # type: ignore[no-any-return]
    return _Bound(operation, bound, count, kind.startswith(TAKE_LISTS))


class _Bound(nn.Module):
    """Call an operation with some of its inputs fixed."""

    def __init__(
        self, operation: Any, bound: dict[int, NDArray[Any]], count: int, takes_lists: bool
    ) -> None:
        super().__init__()
        self._operation = operation
        self._bound = {k: values.tolist() for k, values in bound.items()}
        self._count = count
        self._takes_lists = takes_lists

    def forward(self, *others: Tensor) -> Any:
        given = iter(others)
        inputs = [
            self._fixed(k) if k in self._bound else next(given, None) for k in range(self._count)
        ]
        return self._operation(*inputs)

    def _fixed(self, position: int) -> Any:
        values = self._bound[position]
        return values if self._takes_lists else torch.tensor(values, device="cpu")


class _Slice(nn.Module):
    """Slice a tensor along some axes; onnx2pytorch's own way is deprecated in torch."""

    def __init__(
        self,
        starts: list[int],
        ends: list[int],
        axes: list[int] | None = None,
        steps: list[int] | None = None,
    ) -> None:
        super().__init__()
        self._axes = axes or list(range(len(starts)))
        self._slices = [
            slice(max(start, -LARGEST), min(end, LARGEST), step)
            for start, end, step in zip(starts, ends, steps or [1] * len(starts), strict=True)
        ]

    def forward(self, data: Tensor) -> Tensor:
        for axis, along in zip(self._axes, self._slices, strict=True):
            start, end, step = along.indices(data.shape[axis])
            if step < 0:  # torch has no such slices
                data = data.index_select(axis, torch.arange(start, end, step, device=data.device))
            else:
                data = data.narrow(axis, start, max(0, end - start))
                data = data[(slice(None),) * (axis % data.dim()) + (slice(None, None, step),)]
        return data


class _Mean(nn.Module):
    """Average a tensor along some axes; onnx2pytorch's own way reads them from a tensor."""

    def __init__(self, axes: list[int], keeps_axes: bool) -> None:
        super().__init__()
        self._axes = axes
        self._keeps_axes = keeps_axes

    def forward(self, data: Tensor) -> Tensor:
        return data.mean(self._axes, keepdim=self._keeps_axes)


class _Gather(nn.Module):
    """Select along an axis; onnx2pytorch's own way is deprecated in torch."""

    def __init__(self, axis: int, indices: Any) -> None:
        super().__init__()
        self._axis = axis
        self._indices = indices

    def forward(self, data: Tensor, indices: Tensor | None = None) -> Tensor:
        if isinstance(self._indices, int):
            return data.select(self._axis, self._indices)
        if indices is None:
            indices = torch.tensor(self._indices, device=data.device)
        return data[(slice(None),) * self._axis + (indices.long(),)]


def _slice(data: Tensor, starts: Tensor, ends: Tensor, *others: Tensor | None) -> Tensor:
    axes_and_steps = [None if values is None else values.tolist() for values in others]
    sliced: Tensor = _Slice(starts.tolist(), ends.tolist(), *axes_and_steps)(data)
    return sliced


class _ExpandFrames(nn.Module):
    """Repeat a tensor for every frame."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self._sizes = sizes

    def forward(self, data: Tensor, frames: Tensor) -> Tensor:
        return data.expand(frames.shape[0], *self._sizes)
