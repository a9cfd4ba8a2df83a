"""Find representations that two models have in common: everything up to them is equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from spaces.plan import Ref
from spaces.shares import Pair
from spaces.stages import StagedModel
from spaces.weight_names import is_counter


def find_identical(models: Mapping[str, StagedModel], pairs: Sequence[Pair]) -> frozenset[Pair]:
    """Return the pairs whose donor and recipient are equal on every frame.

    They are outputs of the same stages of one architecture, with equal inputs and with tensors
    that are equal to the bit.
    """
    origins = {name: _origin(model) for name, model in models.items()}
    alike = [p for p in pairs if origins[p.donor.model] == origins[p.recipient.model]]
    hashes: dict[Ref, str] = {}  # only of models that may have something in common
    for name in sorted({ref.model for p in alike for ref in (p.donor, p.recipient)}):
        hashes |= prefix_hashes(models[name])
    return frozenset(pair for pair in alike if hashes[pair.donor] == hashes[pair.recipient])


def prefix_hashes(model: StagedModel) -> dict[Ref, str]:
    """Return a hash of the input and of all stages up to each representation.

    A model that was not loaded from a spec has hashes of its own: modules of equal tensors may
    compute different things.
    """
    digest = hashlib.sha256(_origin(model).encode())
    hashes = {}
    for name, stage in zip(model.layout.stages, model.stages, strict=True):
        for part in _content(name, stage):
            digest.update(part)
        hashes[Ref(model.name, name)] = digest.hexdigest()
    return hashes


def _origin(model: StagedModel) -> str:
    """Return what two models must have in common to have any stage in common."""
    origin = model.source.spec.arch if model.source else f"model {model.name}"
    return f"{origin} {model.input!r}"


def _content(name: str, stage: nn.Module) -> Iterator[bytes]:
    """Yield the structure and the tensors of a stage, except counters that inference ignores."""
    yield f"\n{name} {stage!r}".encode()
    for path, tensor in stage.state_dict().items():
        if not is_counter(path):
            yield f"\n{path} {tensor.dtype} {tuple(tensor.shape)} ".encode()
            yield _bytes(tensor)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
