"""The tensors of a bundle: from a merged model to its file, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spaces.bundle_files import WEIGHTS, BadBundle
from spaces.merged import MergedModel
from spaces.plan import Precision
from spaces.precision import Dtype, StoredWeight, hold_stored, to_stored, weight_names

SCALE = ".scale"
"""Ends the names of the scales of weights in int8."""


def collect_tensors(merged: MergedModel, dtype: Dtype) -> dict[str, Tensor]:
    """Return every tensor as it is stored, once, by name; `dtype` where the plan has no precision.

    Raises:
        BadWeights: a weight is too large for its precision.
    """
    weights, tensors = weight_names(merged), dict[str, Tensor]()
    for tensor, precision, places in _tensors(merged, dtype):
        name, stored = places[0].name, StoredWeight(tensor.detach())
        if id(tensor) in weights:
            stored = to_stored(stored.values, precision, weights[id(tensor)])
        tensors[name] = stored.values.cpu().contiguous()
        if stored.scale is not None:
            tensors[name + SCALE] = stored.scale.cpu().contiguous()
    return tensors


class _Place(NamedTuple):
    """An attribute of a module that holds a tensor; a tied tensor has several places."""

    module: nn.Module
    attribute: str
    name: str


def _tensors(
    merged: MergedModel, dtype: Dtype
) -> Iterator[tuple[Tensor, Precision, list[_Place]]]:
    """Yield each tensor once with its precision and its places, `dtype` where the plan has none.

    A tensor in places of several precisions is yielded once for each.
    """
    precisions = merged.plan.precision_by_owner
    places: dict[tuple[int, Precision], tuple[Tensor, list[_Place]]] = {}
    for start, owner, module in merged.parts():
        precision = precisions.get(owner, dtype)
        for path, part in module.named_modules(prefix=start):
            for attribute, tensor in [
                *part.named_parameters(recurse=False),
                *part.named_buffers(recurse=False),
            ]:
                place = _Place(part, attribute, f"{path}.{attribute}")
                places.setdefault((id(tensor), precision), (tensor, []))[1].append(place)
    for (_, precision), (tensor, places_of_tensor) in places.items():
        yield tensor, precision, places_of_tensor


def fill_tensors(
    merged: MergedModel, tensors: dict[str, Tensor], dtype: Dtype, folder: Path
) -> None:
    """Replace the empty tensors of a model by the loaded ones, which are read as float32.

    Raises:
        BadBundle: a tensor is missing, left over, of another shape, or not finite.
    """
    weights = weight_names(merged)
    for empty, precision, places in [*_tensors(merged, dtype)]:
        name, scale = places[0].name, None
        tensor = _take(tensors, name, tuple(empty.shape), folder)
        if precision == "int8" and id(empty) in weights and empty.dim() > 1:
            scale_shape = (empty.shape[0], *(1 for _ in empty.shape[1:]))
            scale = _take(tensors, name + SCALE, scale_shape, folder)
        # Keep the memory format of the network: some convolutions are slower in any other.
        laid_out = torch.empty_strided(empty.shape, empty.stride(), dtype=tensor.dtype)
        laid_out.copy_(tensor)
        for place in places:
            if id(empty) in weights:
                hold_stored(place.module, place.attribute, StoredWeight(laid_out, scale))
            else:
                _put(place, laid_out)
    if tensors:
        raise BadBundle(f"{folder / WEIGHTS}: holds {len(tensors)} unexpected tensors")


def _take(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], folder: Path) -> Tensor:
    """Remove a tensor from `tensors` and return it.

    Raises:
        BadBundle: it is missing, of another shape, or not finite.
    """
    tensor = tensors.pop(name, None)
    if tensor is None or tuple(tensor.shape) != shape:
        actual = "missing" if tensor is None else f"{tuple(tensor.shape)}"
        raise BadBundle(f"{folder / WEIGHTS}: {name} is {actual}, expected {shape}")
    if not torch.isfinite(tensor).all():
        raise BadBundle(
            f"{folder / WEIGHTS}: {name} holds NaN or infinite values, so the file is damaged; "
            "export the bundle again"
        )
    return tensor


def _put(place: _Place, tensor: Tensor) -> None:
    if place.attribute in dict(place.module.named_parameters(recurse=False)):
        parameter = nn.Parameter(tensor, requires_grad=False)
        place.module.register_parameter(place.attribute, parameter)
    else:
        place.module.register_buffer(place.attribute, tensor)
