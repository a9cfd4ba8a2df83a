"""Who reads a representation, and whether a linear map in front of it folds into its readers.

A linear map in front of a dense convolution is again that convolution with other weights, if the
convolution does not pad (zero padding after a bias is not the bias of zero padding). A 1x1 map
commutes with average pooling, flattening of pooled features and bilinear resizing, so the reader
may sit behind those. The readers are found by watching every torch function that is handed the
representation itself while the real module runs, so a residual addition cannot hide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HEAD = "(head)"

_TRANSPARENT = {
    "adaptive_avg_pool2d",
    "flatten",
    "contiguous",
    "dropout",
    "interpolate",
}
_DENSE = ("conv2d", "linear")
_ASKING = {"__get__", "size", "dim", "stride", "is_contiguous", "numel", "requires_grad_"}


@dataclass(frozen=True)
class Consumer:
    """A dense convolution or linear layer that reads a representation: `path` within `owner`."""

    owner: str
    """The stage, or HEAD, that holds the layer."""
    path: str
    out_channels: int
    kernel: int
    """Number of kernel positions (1 for a 1x1 convolution or a linear layer)."""
    has_bias: bool
    macs_per_channel: int
    """Multiply-accumulates per frame and input channel."""

    def folded_size(self, donor_channels: int) -> int:
        """Numbers in weight and bias once a map from `donor_channels` is folded in."""
        return self.out_channels * (donor_channels * self.kernel + 1)

    def own_size(self, channels: int) -> int:
        """Numbers in the layer's own weight and bias."""
        return self.out_channels * (channels * self.kernel + int(self.has_bias))


@dataclass(frozen=True)
class Consumers:
    """All that a module does with a representation."""

    foldable: tuple[Consumer, ...]
    refusal: str = ""
    """Why a map cannot be folded; empty if it can."""
    passes: bool = False
    """The module hands the representation on (pooled, say): whoever reads its output reads it."""


class _ReadRecorder(TorchFunctionMode):
    """Notes every function that is handed a watched tensor."""

    def __init__(self, watched: Tensor) -> None:
        super().__init__()
        self.watched = [watched]
        self.reads: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []
        self.uses: Counter[int] = Counter()
        """How often each weight is used at all, by its id."""

    def _sees(self, values: Iterable[Any]) -> bool:
        return any(
            any(value is tensor for tensor in self.watched)
            or (isinstance(value, (list, tuple)) and self._sees(value))
            for value in values
        )

    def _same_channels(self, out: Any) -> bool:
        """Flattening features that are not yet pooled would mix positions into the channels."""
        return isinstance(out, Tensor) and out.shape[1:2] == self.watched[0].shape[1:2]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        seen = self._sees(args) or self._sees(kwargs.values())
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name in _DENSE:
            self.uses[id(_weight(args, kwargs))] += 1
        if seen and name in _TRANSPARENT and self._same_channels(out):
            self.watched.append(out)
        elif seen and name not in _ASKING:
            self.reads.append((name, args, kwargs, out))
        return out


@torch.no_grad()
def find_consumers(owner: str, module: nn.Module, call: Any, watched: Tensor) -> Consumers:
    """Run `module(call)` and report what it does with `watched`, a tensor within `call`."""
    paths = {
        id(child.weight): path
        for path, child in module.named_modules()
        if isinstance(child, (nn.Conv2d, nn.Linear))
    }
    with _ReadRecorder(watched) as watch:
        answer = module(call)
    found: list[Consumer] = []
    for name, args, kwargs, out in watch.reads:
        weight = _weight(args, kwargs)
        path = paths.get(id(weight))
        if name not in _DENSE or path is None:
            return Consumers((), f"{owner} reads it with {name}")
        if watch.uses[id(weight)] > 1:
            return Consumers((), f"{owner}.{path}: the layer is used more than once")
        layer = module.get_submodule(path)
        refusal = fold_refusal(layer)
        if refusal:
            return Consumers((), f"{owner}.{path}: {refusal}")
        found.append(_consumer(owner, path, layer, out))
    passes = any(answer is tensor for tensor in watch.watched)
    return Consumers(tuple(found), passes=passes)


def _weight(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("weight")


def fold_refusal(layer: nn.Module) -> str:
    """Why a linear map in front of this layer cannot be folded into it; empty if it can."""
    if isinstance(layer, nn.Linear):
        return ""
    if not isinstance(layer, nn.Conv2d):
        return f"{type(layer).__name__} is not a convolution"
    if layer.groups != 1:
        return "the convolution is grouped or depthwise"
    if layer.padding not in ((0, 0), "valid", 0):
        return "zero padding meets the map's bias"
    return ""


def fold_into_layer(layer: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    """The layer that does `layer(weight @ x + bias)` in one step.

    `weight` is (recipient channels, donor channels), `bias` (recipient channels,).
    """
    if isinstance(layer, nn.Linear):
        linear = nn.Linear(weight.shape[1], layer.out_features)
        linear.weight.data = layer.weight @ weight
        linear.bias.data = layer.weight @ bias + (0 if layer.bias is None else layer.bias)
        return linear
    assert isinstance(layer, nn.Conv2d) and not fold_refusal(layer)
    size = layer.kernel_size
    conv = nn.Conv2d(
        weight.shape[1],
        layer.out_channels,
        (size[0], size[1]),
        stride=(layer.stride[0], layer.stride[1]),
        dilation=(layer.dilation[0], layer.dilation[1]),
    )
    conv.weight.data = torch.einsum("orhw,rd->odhw", layer.weight, weight).contiguous(
        memory_format=torch.channels_last
    )
    assert conv.bias is not None
    shift = torch.einsum("orhw,r->o", layer.weight, bias)
    conv.bias.data = shift + (0 if layer.bias is None else layer.bias)
    return conv


def _consumer(owner: str, path: str, layer: nn.Module, out: Tensor) -> Consumer:
    if isinstance(layer, nn.Linear):
        return Consumer(
            owner, path, layer.out_features, 1, layer.bias is not None, layer.out_features
        )
    assert isinstance(layer, nn.Conv2d)
    kernel = layer.kernel_size[0] * layer.kernel_size[1]
    positions = out.shape[-2] * out.shape[-1]
    return Consumer(
        owner,
        path,
        layer.out_channels,
        kernel,
        layer.bias is not None,
        layer.out_channels * kernel * positions,
    )
