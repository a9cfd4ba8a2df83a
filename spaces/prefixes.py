"""Find representations that two models have in common: everything up to them is equal."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from spaces.plan import Ref
from spaces.shares import Pair
from spaces.stages import StagedModel
from spaces.weight_names import is_counter

_INERT = {
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.dropout.Dropout2d",
    "timm.layers.drop.DropPath",
}
"""Modules that return their input at inference, whatever their settings."""
_BOOKKEEPING = frozenset(vars(nn.Module()))
"""Attributes that every module has; the tensors and children among them are read elsewhere."""


def find_identical(models: Mapping[str, StagedModel], pairs: Sequence[Pair]) -> frozenset[Pair]:
    """Return the pairs whose donor and recipient are equal on every frame.

    From equal inputs on, equal modules with tensors that are equal to the bit compute them. The
    names of modules, the cut, and all that comes later may differ.
    """
    hashes = prefix_hashes(models)
    return frozenset(
        pair
        for pair in pairs
        if pair.donor in hashes and hashes[pair.donor] == hashes.get(pair.recipient)
    )


def prefix_hashes(models: Mapping[str, StagedModel]) -> dict[Ref, str]:
    """Return a hash of everything up to a representation, as far as models may agree.

    A model is read up to its first module that no other model has at that place. The hashes hold
    within this process only, since classes and functions are compared by identity.
    """
    hashes: dict[Ref, str] = {}
    digests = {name: hashlib.sha256() for name in models}
    chains = {name: _links(model) for name, model in models.items()}
    while chains:
        current = {name: next(chain, None) for name, chain in chains.items()}
        for name, link in current.items():
            if link is None:
                del chains[name]
                continue
            content, ends = link
            for part in content:
                digests[name].update(part)
            hashes |= dict.fromkeys(ends, digests[name].hexdigest())
        owners = Counter(digests[name].digest() for name in chains)
        chains = {n: chain for n, chain in chains.items() if owners[digests[n].digest()] > 1}
    return hashes


Link = tuple[Iterator[bytes], list[Ref]]
"""The content of a module of a chain, and the representations that are its output."""


def _links(model: StagedModel) -> Iterator[Link]:
    """Yield the input, then every module that the input passes through in turn."""
    content, ends = _input_content(model), list[Ref]()
    for name, stage in zip(model.layout.stages, model.stages, strict=True):
        for module in _chain(stage):
            yield content, ends
            content, ends = _content(module), []
        ends.append(Ref(model.name, name))
    yield content, ends


def _input_content(model: StagedModel) -> Iterator[bytes]:
    spec = model.input
    # only a crop reads the size of crops
    yield repr(spec if spec.fit == "crop" else replace(spec, crop_pct=1.0)).encode()


def _chain(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of nested sequences in their order, without inert ones."""
    if type(module) is nn.Sequential and not _is_patched(module):
        for part in module:
            yield from _chain(part)
    elif not _is_inert(module):
        yield module


def _content(module: nn.Module) -> Iterator[bytes]:
    """Yield all that the output of a module depends on: class, settings, tensors, children.

    A forward pass reads nothing else. Counters, which inference ignores, are left out.
    """
    if _is_inert(module):
        yield b"(inert)"
        return
    yield f"({_qualified_name(module)} {id(type(module))} {module.training}".encode()
    if _is_patched(module):
        yield f" patched {id(module)}".encode()
    for name, value in sorted(vars(module).items()):
        if name not in _BOOKKEEPING:
            yield f" {name}=".encode()
            yield from _setting(value)
    for name, tensor in _own_tensors(module):
        yield f" {name}:".encode()
        yield from _tensor(tensor)
    for name, child in module._modules.items():
        yield f" {name}".encode()
        if child is not None:
            yield from _content(child)
    yield b")"


def _setting(value: object) -> Iterator[bytes]:
    """Yield the value of an attribute; two unknown objects are equal only if they are the same."""
    if value is None or isinstance(value, (bool, int, float, str)):
        yield repr(value).encode()
    elif isinstance(value, Tensor):
        yield from _tensor(value)
    elif type(value) in (tuple, list, torch.Size):
        assert isinstance(value, (tuple, list))
        yield b"["
        for item in value:
            yield from _setting(item)
            yield b","
        yield b"]"
    else:
        yield f"{type(value).__name__} {id(value)}".encode()


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        if not is_counter(name):
            yield name, buffer


def _tensor(tensor: Tensor) -> Iterator[bytes]:
    yield f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    flat = tensor.detach().cpu().contiguous().flatten()
    yield flat.view(torch.uint8).numpy().tobytes()


def _is_inert(module: nn.Module) -> bool:
    return _qualified_name(module) in _INERT and not module.training and not _is_patched(module)


def _is_patched(module: nn.Module) -> bool:
    """Return whether a module computes something else than its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def _qualified_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
