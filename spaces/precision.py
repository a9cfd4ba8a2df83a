"""Weights kept in half precision: half the bytes, arithmetic in float32.

What is halved are the weights and biases of convolutions and linear layers, and the adapters'
maps: nearly all bytes of a network. Normalisations, whose variances may leave float16's range, and
anchors, which are pixel positions, stay as they are. Each weight becomes float32 while its layer
runs, so a network that keeps its weights so answers exactly as one whose weights were rounded.
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
    """Bytes of one weight."""
    return TORCH_DTYPES[dtype].itemsize


def weight_names(module: nn.Module) -> dict[int, str]:
    """The tensors within a module that a dtype applies to: `id` -> path."""
    return {
        id(tensor): f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name, tensor in part.named_parameters(recurse=isinstance(part, LinearAdapter))
        if isinstance(part, (*_LAYERS, LinearAdapter))
    }


def to_stored_dtype(tensor: Tensor, dtype: Dtype, name: str) -> Tensor:
    """The tensor as it is kept.

    Raises:
        BadWeights: a number is too large for that dtype.
    """
    kept = tensor.to(TORCH_DTYPES[dtype])
    if not torch.isfinite(kept).all():
        raise BadWeights(f"{name} holds numbers that {dtype} cannot; use bfloat16 or float32")
    return kept


@torch.no_grad()
def round_weights(model: StagedModel, dtype: Dtype) -> StagedModel:
    """A copy that computes in float32 with weights that `dtype` can hold; itself for float32."""
    if dtype == "float32":
        return model
    twin = copy.deepcopy(model)
    weights = weight_names(twin)
    for tensor in twin.parameters():
        if id(tensor) in weights:
            tensor.copy_(
                to_stored_dtype(tensor, dtype, f"{model.name}: {weights[id(tensor)]}").float()
            )
    return twin


def round_map(linear: LinearMap, dtype: Dtype) -> LinearMap:
    """The same for an adapter's map."""
    if dtype == "float32":
        return linear
    weight, bias = (
        to_stored_dtype(t, dtype, "a linear map").float() for t in (linear.weight, linear.bias)
    )
    return LinearMap(weight, bias)


class _Widened(nn.Module):
    """A weight that is kept in half precision, as its layer asks for it."""

    def forward(self, kept: Tensor) -> Tensor:
        return kept.float()


def compute_in_float32(module: nn.Module) -> None:
    """Let the layers within a module whose weights are halves compute in float32."""
    for layer in [part for part in module.modules() if isinstance(part, _LAYERS)]:
        for name, tensor in [*layer.named_parameters(recurse=False)]:
            if tensor.dtype in (torch.float16, torch.bfloat16):
                parametrize.register_parametrization(layer, name, _Widened(), unsafe=True)
