"""Find the layers that consume a representation, and fold linear maps into them.

A linear map in front of a dense convolution equals the convolution with other weights, unless the
convolution pads: zeros that are padded after the map do not carry its bias. A 1x1 map commutes
with average pooling, with flattening of pooled features and with bilinear resizing, so the
consumer may come after those. Consumers are found by recording every torch function that receives
the representation while the real module runs, so a residual addition cannot be missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spaces.plan import Precision
from spaces.precision import stored_bytes

_TRANSPARENT = {
    "adaptive_avg_pool2d",
    "flatten",
    "contiguous",
    "dropout",
    "interpolate",
}
_DENSE = ("conv2d", "linear")
_METADATA = {"__get__", "size", "dim", "stride", "is_contiguous", "numel", "requires_grad_"}


@dataclass(frozen=True)
class Consumer:
    """A dense convolution or linear layer that reads a representation."""

    owner: str
    """The stage that contains the layer, or HEAD."""
    path: str
    """Module path of the layer within its owner; empty if the owner is the layer."""
    out_channels: int
    kernel: int
    """Number of kernel positions: 1 for a 1x1 convolution or a linear layer."""
    has_bias: bool
    macs_per_channel: int
    """Multiply-accumulates per frame and input channel."""

    def folded_bytes(self, donor_channels: int, precision: Precision) -> int:
        """Return the bytes of the layer with a map from `donor_channels` folded in."""
        return self._bytes(donor_channels, 1, precision)

    def own_bytes(self, channels: int, precision: Precision) -> int:
        """Return the bytes of the layer's own weights and biases."""
        return self._bytes(channels, int(self.has_bias), precision)

    def _bytes(self, channels: int, biases: int, precision: Precision) -> int:
        return stored_bytes((self.out_channels, channels * self.kernel), precision) + stored_bytes(
            (self.out_channels * biases,), precision
        )


@dataclass(frozen=True)
class Consumers:
    """What one module does with a representation."""

    foldable: tuple[Consumer, ...]
    refusal: str = ""
    """The reason why a map cannot be folded; empty if it can."""
    passes: bool = False
    """Whether the module passes the representation on, pooled for example: the consumers of its
    output are then consumers of the representation too."""


class _ReadRecorder(TorchFunctionMode):
    """Record every torch function that receives a watched tensor."""

    def __init__(self, watched: Tensor) -> None:
        super().__init__()
        self.watched = [watched]
        self.reads: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []
        self.uses: Counter[int] = Counter()
        """How often each weight is used by any layer, by the id of the weight."""

    def _includes_watched(self, values: Iterable[Any]) -> bool:
        return any(
            any(value is tensor for tensor in self.watched)
            or (isinstance(value, (list, tuple)) and self._includes_watched(value))
            for value in values
        )

    def _same_channels(self, out: Any) -> bool:
        """Rule out flattening before pooling, which would mix positions into the channels."""
        return isinstance(out, Tensor) and out.shape[1:2] == self.watched[0].shape[1:2]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        is_read = self._includes_watched(args) or self._includes_watched(kwargs.values())
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name in _DENSE:
            self.uses[id(_weight(args, kwargs))] += 1
        if is_read and name in _TRANSPARENT and self._same_channels(out):
            self.watched.append(out)
        elif is_read and name not in _METADATA:
            self.reads.append((name, args, kwargs, out))
        return out


@torch.no_grad()
def find_consumers(owner: str, module: nn.Module, argument: Any, watched: Tensor) -> Consumers:
    """Run `module(argument)` and return its use of `watched`, a tensor within `argument`.

    `owner` names the module, a stage or HEAD, in the result.
    """
    paths = {
        id(child.weight): path
        for path, child in module.named_modules()
        if isinstance(child, (nn.Conv2d, nn.Linear))
    }
    with _ReadRecorder(watched) as recorder:
        output = module(argument)
    foldable: list[Consumer] = []
    for name, args, kwargs, out in recorder.reads:
        weight = _weight(args, kwargs)
        path = paths.get(id(weight))
        if name not in _DENSE or path is None:
            return Consumers((), f"{owner} reads it with {name}")
        if recorder.uses[id(weight)] > 1:
            return Consumers((), f"{owner}.{path}: the layer is used more than once")
        layer = module.get_submodule(path)
        refusal = fold_refusal(layer)
        if refusal:
            return Consumers((), f"{owner}.{path}: {refusal}")
        foldable.append(_consumer(owner, path, layer, out))
    passes = any(output is tensor for tensor in recorder.watched)
    return Consumers(tuple(foldable), passes=passes)


def _weight(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("weight")


def fold_refusal(layer: nn.Module) -> str:
    """Return why a linear map in front of a layer cannot be folded into it; empty if it can."""
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
    """Return one layer that computes `layer(weight @ x + bias)`.

    `weight` is (recipient channels, donor channels), `bias` is (recipient channels,).
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
