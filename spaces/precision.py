"""Store weights in fewer bytes and compute in float32.

In half precision (float16, bfloat16) the weights and biases of convolutions and linear layers and
the maps of adapters are stored: nearly all bytes of a network. In int8 it is the same weights,
symmetrically around 0 with one float32 scale per output channel; their biases stay in float32. So
do normalisation layers, with variances that can exceed the range of float16, and anchors, which
are pixel positions. Each weight is converted to float32 while its layer runs, so the outputs equal
those of a float32 network with rounded weights exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaces.adapters import LinearAdapter, LinearMap
from spaces.errors import BadWeights
from spaces.plan import Precision
from spaces.stages import StagedModel

Dtype = Literal["float32", "float16", "bfloat16"]
"""The precisions in which networks are trained and saved."""
TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
LARGEST_INTEGER = 127
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
_LAYERS = (nn.Conv2d, nn.Linear)


def stored_bytes(shape: Sequence[int], precision: Precision) -> int:
    """Return the bytes of a weight of that shape, its scales included."""
    if precision == "int8" and len(shape) < 2:
        precision = "float32"
    scales = 4 * shape[0] if precision == "int8" else 0
    return prod(shape) * TORCH_DTYPES[precision].itemsize + scales


def weight_names(module: nn.Module) -> dict[int, str]:
    """Return the tensors of a module that a precision applies to, as id of the tensor -> path."""
    return {
        id(tensor): f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name, tensor in part.named_parameters(recurse=isinstance(part, LinearAdapter))
        if isinstance(part, (*_LAYERS, LinearAdapter))
    }


class StoredWeight(NamedTuple):
    """A weight as it is stored."""

    values: Tensor
    """(output channels, ...), of the precision's dtype."""
    scale: Tensor | None = None
    """(output channels, 1, ...) in float32: what an integer counts, if the values are integers."""

    def widen(self) -> Tensor:
        """Return the weight in float32."""
        values = self.values.float()
        # In place, because large weights are read in every frame: one copy is enough.
        return values if self.scale is None else values.mul_(self.scale)


def to_stored(tensor: Tensor, precision: Precision, name: str) -> StoredWeight:
    """Return a float32 weight as it is stored; `name` is for errors.

    Raises:
        BadWeights: a value is too large for half precision.
    """
    if precision == "int8":
        return _to_integers(tensor)
    stored = tensor.to(TORCH_DTYPES[precision])
    if not torch.isfinite(stored).all():
        raise BadWeights(
            f"{name}: holds values too large for {precision}; use bfloat16 or float32"
        )
    return StoredWeight(stored)


def _to_integers(tensor: Tensor) -> StoredWeight:
    if tensor.dim() < 2:
        return StoredWeight(tensor)
    largest = tensor.abs().amax(tuple(range(1, tensor.dim())), keepdim=True)
    scale = (largest / LARGEST_INTEGER).clamp_min(SMALLEST_SCALE)
    return StoredWeight((tensor / scale).round().to(torch.int8), scale)


@torch.no_grad()
def round_weights(module: nn.Module, precision: Precision, name: str) -> None:
    """Round the weights of a float32 module to a precision, in place; `name` is for errors.

    Raises:
        BadWeights: a weight is too large for that precision.
    """
    weights = weight_names(module)
    for tensor in module.parameters():
        if id(tensor) in weights:
            tensor.copy_(to_stored(tensor, precision, f"{name}: {weights[id(tensor)]}").widen())


def rounded_model(model: StagedModel, precision: Precision) -> StagedModel:
    """Return a float32 copy with weights rounded to a precision; the model itself for float32.

    Raises:
        BadWeights: a weight is too large for that precision.
    """
    if precision == "float32":
        return model
    copied = copy.deepcopy(model)
    round_weights(copied, precision, model.name)
    return copied


def round_map(linear: LinearMap, precision: Precision) -> LinearMap:
    """Return a float32 map rounded to a precision, as `round_weights` does for a module."""
    if precision == "float32":
        return linear
    weight, bias = (
        to_stored(t, precision, "a linear map").widen() for t in (linear.weight, linear.bias)
    )
    return LinearMap(weight, bias)


@torch.no_grad()
def store_weights(module: nn.Module, precision: Precision, name: str) -> None:
    """Make a float32 module hold its weights in a precision, in place; `name` is for errors.

    Raises:
        BadWeights: a weight is too large for that precision.
    """
    weights = weight_names(module)
    for part in [*module.modules()]:
        for attribute, tensor in [*part.named_parameters(recurse=False)]:
            if id(tensor) in weights:
                label = f"{name}: {weights[id(tensor)]}"
                hold_stored(part, attribute, to_stored(tensor, precision, label))


@torch.no_grad()
def widen_weights(module: nn.Module) -> None:
    """Replace the stored weights of a module by what they read as, in float32, in place.

    The module must not be a copy: torch's copies share their classes, which lose the weights.
    """
    for part in [*module.modules()]:
        for attribute in [*getattr(part, "parametrizations", {})]:
            widened = getattr(part, attribute).detach().clone()
            parametrize.remove_parametrizations(part, attribute, leave_parametrized=False)
            part.register_parameter(attribute, nn.Parameter(widened, requires_grad=False))


class _Widened(nn.Module):
    """Convert a stored weight to float32 whenever its layer reads it."""

    scale: Tensor | None

    def __init__(self, scale: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, stored: Tensor) -> Tensor:
        return StoredWeight(stored, self.scale).widen()


def as_parameter(tensor: Tensor) -> nn.Parameter:
    """Return a tensor as a parameter without a gradient; a parameter stays the same object."""
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)


def hold_stored(module: nn.Module, attribute: str, stored: StoredWeight) -> None:
    """Replace a parameter by a stored weight, which reads as float32."""
    module.register_parameter(attribute, as_parameter(stored.values))
    if stored.values.dtype != torch.float32:
        widened = _Widened(stored.scale)
        parametrize.register_parametrization(module, attribute, widened, unsafe=True)
