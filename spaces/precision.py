"""Store weights in half precision and compute in float32.

Stored in half precision are the weights and biases of convolutions and linear layers and the maps
of adapters: nearly all bytes of a network. Normalisation layers, with variances that can exceed
the range of float16, and anchors, which are pixel positions, stay in float32. Each weight is
converted to float32 while its layer runs, so the outputs equal those of a float32 network with
rounded weights exactly.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaces.adapters import LinearAdapter, LinearMap
from spaces.errors import BadWeights
from spaces.stages import StagedModel

Dtype = Literal["float32", "float16", "bfloat16"]
TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_LAYERS = (nn.Conv2d, nn.Linear)


def element_bytes(dtype: Dtype) -> int:
    """Return the bytes of one stored weight."""
    return TORCH_DTYPES[dtype].itemsize


def weight_names(module: nn.Module) -> dict[int, str]:
    """Return the tensors of a module that `dtype` applies to, as id of the tensor -> path."""
    return {
        id(tensor): f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name, tensor in part.named_parameters(recurse=isinstance(part, LinearAdapter))
        if isinstance(part, (*_LAYERS, LinearAdapter))
    }


def to_stored_dtype(tensor: Tensor, dtype: Dtype, name: str) -> Tensor:
    """Return the tensor converted to the stored dtype.

    Raises:
        BadWeights: a value is too large for that dtype.
    """
    stored = tensor.to(TORCH_DTYPES[dtype])
    if not torch.isfinite(stored).all():
        raise BadWeights(f"{name}: holds values too large for {dtype}; use bfloat16 or float32")
    return stored


@torch.no_grad()
def round_weights(model: StagedModel, dtype: Dtype) -> StagedModel:
    """Return a float32 copy with weights rounded to `dtype`; the model itself for float32.

    Raises:
        BadWeights: a weight is too large for that dtype.
    """
    if dtype == "float32":
        return model
    copied = copy.deepcopy(model)
    weights = weight_names(copied)
    for tensor in copied.parameters():
        if id(tensor) in weights:
            tensor.copy_(
                to_stored_dtype(tensor, dtype, f"{model.name}: {weights[id(tensor)]}").float()
            )
    return copied


def round_map(linear: LinearMap, dtype: Dtype) -> LinearMap:
    """Return a float32 map rounded to `dtype`, as `round_weights` does for a model."""
    if dtype == "float32":
        return linear
    weight, bias = (
        to_stored_dtype(t, dtype, "a linear map").float() for t in (linear.weight, linear.bias)
    )
    return LinearMap(weight, bias)


class _Widened(nn.Module):
    """Convert a stored half-precision weight to float32 whenever its layer reads it."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


def compute_in_float32(module: nn.Module) -> None:
    """Make the layers of a module that store half-precision weights compute in float32."""
    for layer in [part for part in module.modules() if isinstance(part, _LAYERS)]:
        for name, tensor in [*layer.named_parameters(recurse=False)]:
            if tensor.dtype in (torch.float16, torch.bfloat16):
                parametrize.register_parametrization(layer, name, _Widened(), unsafe=True)
