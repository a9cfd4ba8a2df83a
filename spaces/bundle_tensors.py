"""The tensors of a bundle: from merged models to its file, and back.

The metadata of the file say how the tensors are named that a further plan has where the first one
has others: as JSON, by the hash of the plan, the place of a tensor -> its name in the file.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.bundle_files import WEIGHTS, BadBundle
from spaces.json_text import load_json
from spaces.merged import MergedModel
from spaces.plan import Precision
from spaces.precision import (
    Dtype,
    StoredWeight,
    as_parameter,
    hold_stored,
    to_stored,
    weight_names,
)
from spaces.stages import total_bytes

SCALE = ".scale"
"""Ends the names of the scales of weights in int8."""


class TensorCollection:
    """The tensors of one or several plans as they are stored, each once."""

    def __init__(self, dtype: Dtype) -> None:
        self.dtype = dtype
        """The precision of what a plan gives none."""
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[str, bytes], str] = {}
        self._renamed: dict[str, dict[str, str]] = {}

    def add(self, merged: MergedModel) -> None:
        """Add the tensors of a plan; those that an earlier one has in the same place are shared.

        The tensors of the first plan are named after their places, further ones of other plans
        after the plan as well.

        Raises:
            BadWeights: a weight is too large for its precision.
        """
        prefix = f"{merged.plan.hash}." if self.tensors else ""
        weights, renamed = weight_names(merged), dict[str, str]()
        for tensor, precision, places in _tensors(merged, self.dtype):
            stored = StoredWeight(tensor.detach())
            if id(tensor) in weights:
                stored = to_stored(stored.values, precision, weights[id(tensor)])
            place_names = [place.name for place in places]
            name = self._store(prefix, place_names, stored)
            if name != place_names[0]:
                renamed[place_names[0]] = name
        self._renamed[merged.plan.hash] = renamed

    def write(self, folder: Path) -> int:
        """Write the tensors into the folder of a bundle; return the bytes of all."""
        renamed = {plan: json.dumps(names) for plan, names in self._renamed.items() if names}
        save_file(self.tensors, folder / WEIGHTS, metadata=renamed or None)
        return total_bytes([*self.tensors.values()])

    def _store(self, prefix: str, places: Sequence[str], stored: StoredWeight) -> str:
        """Store a tensor unless one of its places has the same already; return its name."""
        content = _content_hash(stored)
        shared = [name for place in places if (name := self._names.get((place, content)))]
        name = shared[0] if shared else prefix + places[0]
        if not shared:
            self.tensors[name] = stored.values.cpu().contiguous()
            if stored.scale is not None:
                self.tensors[name + SCALE] = stored.scale.cpu().contiguous()
        for place in places:
            self._names.setdefault((place, content), name)
        return name


def _content_hash(stored: StoredWeight) -> bytes:
    digest = hashlib.sha256()
    for tensor in (stored.values, stored.scale):
        if tensor is not None:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


class LoadedTensors:
    """The tensors in the file of a bundle; each is in memory once, whichever plans hold it.

    Raises:
        OSError, SafetensorError: the file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / WEIGHTS
        with safe_open(self._path, "pt") as file:
            self._metadata: dict[str, str] = file.metadata() or {}
        self._unread = load_file(self._path)
        self._read: dict[str, Tensor] = {}

    def fill(self, models: Sequence[MergedModel], dtype: Dtype) -> None:
        """Replace the empty tensors of models by the loaded ones, which are read as float32.

        The models are those of several plans over the same networks. Their modules are shared
        where the tensors are: the objects of modules take memory, too.

        Raises:
            BadBundle: a tensor is missing, left over, of another shape, or not finite.
        """
        parts: dict[tuple[str, tuple[_Slot, ...]], nn.Module] = {}
        taken: set[int] = set()
        slots_by_model = [self._slots(merged, dtype) for merged in models]
        for merged, slots in zip(models, slots_by_model, strict=True):
            for path, _, module in [*merged.parts()]:
                key = path, tuple(slots[path])
                if key not in parts:
                    parts[key] = copy.deepcopy(module) if id(module) in taken else module
                    taken.add(id(module))
                merged.set_submodule(path, parts[key])
        for (path, needed), module in parts.items():
            self._fill_part(path, module, needed)
        if self._unread:
            raise BadBundle(f"{self._path}: holds {len(self._unread)} unexpected tensors")

    def _slots(self, merged: MergedModel, dtype: Dtype) -> dict[str, list[_Slot]]:
        """Return the tensors that each part of a model needs, by the path of the part."""
        names = self._names_of(merged.plan.hash)
        slots: dict[str, list[_Slot]] = {path: [] for path, _, _ in merged.parts()}
        for _, precision, places in _tensors(merged, dtype):
            name = names.get(places[0].name, places[0].name)
            for place in places:
                slots[place.part].append(_Slot(place.name, name, precision))
        return slots

    def _fill_part(self, path: str, module: nn.Module, slots: Sequence[_Slot]) -> None:
        weights = weight_names(module)
        owners = []
        for slot in slots:
            inner, _, attribute = slot.place.removeprefix(f"{path}.").rpartition(".")
            owner = module.get_submodule(inner)
            owners.append((owner, attribute, getattr(owner, attribute)))
        for slot, (owner, attribute, empty) in zip(slots, owners, strict=True):
            tensor = self._tensor(slot.name, empty)
            if id(empty) in weights:
                scale = self._scale(slot.name, empty) if slot.precision == "int8" else None
                hold_stored(owner, attribute, StoredWeight(tensor, scale))
            elif isinstance(empty, nn.Parameter):
                owner.register_parameter(attribute, as_parameter(tensor))
            else:
                owner.register_buffer(attribute, tensor)

    def _scale(self, name: str, empty: Tensor) -> Tensor | None:
        """Return the scale of a weight in int8, (output channels, 1, ...); a bias has none."""
        if empty.dim() < 2:
            return None
        shape = (empty.shape[0], *(1 for _ in empty.shape[1:]))
        return self._tensor(name + SCALE, torch.empty(shape, device="meta"))

    def _names_of(self, plan: str) -> dict[str, str]:
        """Return the names of the tensors that a plan has under others than its places."""
        try:
            return dict(load_json(self._metadata.get(plan, "{}")))
        except (ValueError, TypeError) as error:
            raise BadBundle(
                f"{self._path}: the names of the tensors of plan {plan} are damaged ({error})"
            ) from error

    def _tensor(self, name: str, empty: Tensor) -> Tensor:
        """Return a tensor of the file, laid out in memory as an empty one.

        Raises:
            BadBundle: it is missing, of another shape, or not finite.
        """
        if name not in self._read and name in self._unread:
            self._read[name] = self._laid_out(name, empty)
        tensor = self._read.get(name)
        if tensor is None or tensor.shape != empty.shape:
            actual = "missing" if tensor is None else f"{tuple(tensor.shape)}"
            raise BadBundle(f"{self._path}: {name} is {actual}, expected {tuple(empty.shape)}")
        return tensor

    def _laid_out(self, name: str, empty: Tensor) -> Tensor:
        tensor = self._unread.pop(name)
        if tensor.shape != empty.shape:
            return tensor
        if not torch.isfinite(tensor).all():
            raise BadBundle(
                f"{self._path}: {name} holds NaN or infinite values, so the file is damaged; "
                "export the bundle again"
            )
        # Keep the memory format of the network: some convolutions are slower in any other.
        laid_out = torch.empty_strided(empty.shape, empty.stride(), dtype=tensor.dtype)
        laid_out.copy_(tensor)
        return as_parameter(laid_out) if isinstance(empty, nn.Parameter) else laid_out


class _Slot(NamedTuple):
    """A tensor that a part of a model needs."""

    place: str
    name: str
    """Its name in the file."""
    precision: Precision


class _Place(NamedTuple):
    """Where a merged model holds a tensor; a tied tensor has several places."""

    part: str
    """The path of the stage, head or adapter."""
    name: str
    """The path of the tensor."""


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
                place = _Place(start, f"{path}.{attribute}")
                places.setdefault((id(tensor), precision), (tensor, []))[1].append(place)
    for (_, precision), (tensor, places_of_tensor) in places.items():
        yield tensor, precision, places_of_tensor
