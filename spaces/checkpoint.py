"""Read the weights in a checkpoint file; what the file is, its content says.

Nothing is unpickled: a class or function that the file names is neither imported nor called. What
such a class would hold becomes an inert placeholder, so the optimiser state and the arguments that
trainers save beside the weights do no harm.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from spaces.errors import BadWeights

AVERAGED = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "ema_weights",
    "params_ema",
    "ema",
)
"""Keys under which trainers save the moving average of the weights."""
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "params",
    "weights",
)
"""Keys under which trainers save the weights themselves."""
SAVE_TENSORS = "save the tensors alone: torch.save(model.state_dict(), 'weights.pth')"
POINTERS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex/")
"""First bytes of files that only say where a store of large files keeps the content."""
LEGACY_PICKLES = 5
"""Pickles in a file of torch's old format: magic number, protocol, system, object, storages."""
_ESCAPE_CODES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, under the names that the file gives them."""

    state: Mapping[str, Tensor]
    """Floating tensors are float32."""
    section: str
    """Path of keys in the file under which the weights are, such as `state_dict_ema`; empty if
    the file holds nothing else."""
    averaged: bool
    """Whether the weights are a moving average that the trainer saved beside its own."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights in a safetensors or PyTorch file, whatever its name ends in.

    Averaged weights are preferred over the others, as timm does.

    Raises:
        BadWeights: the file is missing, of another kind or damaged, or holds no weights.
    """
    if not path.is_file():
        raise BadWeights(f"weights file {path}: there is no such file")
    try:
        content = _load(path)
        section, state = _find_state(content, "")
    except BadWeights as error:
        raise BadWeights(f"weights file {path}: {error}") from error
    except Exception as error:
        # Damaged bytes can raise any exception in a reader; all mean that the file is damaged.
        raise BadWeights(f"weights file {path}: cannot be read ({_reason(error)})") from error
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return Checkpoint(floats, section, any(key in AVERAGED for key in section.split(".")))


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        BadWeights: one is; the message names its tensor.
    """
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise BadWeights(f"{source}: tensor {name} holds NaN or infinite values")


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(POINTERS):
        raise BadWeights(
            "is a pointer to a store of large files, not the weights; fetch the content first "
            "(git lfs pull, or git annex get)"
        )
    if _is_safetensors(start, path.stat().st_size):
        return load_file(path)
    if not start.startswith((b"PK", b"\x80")):
        raise BadWeights(
            "cannot be read (its first bytes are neither those of a safetensors nor of a PyTorch "
            "file)"
        )
    names = _global_names(path)
    placeholders: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_placeholder(name), name) for name in sorted(names)
    ]
    with warnings.catch_warnings(), torch.serialization.safe_globals(placeholders):
        # A warning about the pickle protocol does not help a user: the file is read or refused.
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:  # of a path, torch would look at the ending
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise BadWeights(f"cannot be read ({_reason(error)}); {SAVE_TENSORS}") from error


def _is_safetensors(start: bytes, size: int) -> bool:
    """Return whether a file begins as safetensors do: the length of a JSON object, the object.

    The length may begin with the bytes of a PyTorch file, which then hold no such length.
    """
    if start[8:9] != b"{":
        return False
    is_pytorch = start.startswith((b"PK", b"\x80"))
    return not is_pytorch or int.from_bytes(start[:8], "little") < size


def _global_names(path: Path) -> set[str]:
    """Return the full names of the classes and functions that a PyTorch file refers to."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return _names_in(file, LEGACY_PICKLES)
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in members):
            raise BadWeights(
                "is a TorchScript archive; save its tensors alone: "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        (pickled,) = [name for name in members if name.endswith("/data.pkl")]
        with archive.open(pickled) as file:
            return _names_in(file, 1)


def _names_in(file: Any, pickles: int) -> set[str]:
    names = set[str]()
    for _ in range(pickles):
        for opcode, argument, _position in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                names.add(".".join(str(argument).split(" ")))
    return names


class _Placeholder:
    """The place of an object whose class is not a plain container."""

    source = ""

    def __new__(cls, *_args: Any, **_options: Any) -> _Placeholder:
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_options: Any) -> None: ...

    def __setstate__(self, _state: Any) -> None: ...


def _placeholder(name: str) -> type[_Placeholder]:
    return type("_Placeholder", (_Placeholder,), {"source": name})


def _find_state(content: Any, section: str) -> tuple[str, Mapping[str, Any]]:
    """Return the weights in the content of a file, and the path of keys that leads to them."""
    where = f"under the key {section!r}, " if section else ""
    if isinstance(content, _Placeholder):
        raise BadWeights(
            f"{where}holds a pickled object of the class {content.source}, not its tensors; "
            f"{SAVE_TENSORS}"
        )
    if not isinstance(content, Mapping):
        raise BadWeights(
            f"{where}holds no state dict of tensors, but {type(content).__name__}; {SAVE_TENSORS}"
        )
    for key in (*AVERAGED, *WRAPPERS):
        if _holds_weights(content.get(key)):
            return _find_state(content[key], _join(section, key))
    if _is_state_dict(content):
        return section, content
    others = [key for key, value in content.items() if _holds_weights(value)]
    if len(others) == 1:
        return _find_state(content[others[0]], _join(section, str(others[0])))
    for key in (*AVERAGED, *WRAPPERS):
        if isinstance(content.get(key), _Placeholder):
            return _find_state(content[key], _join(section, key))
    several = f" under one key; several hold tensors: {', '.join(map(str, others))}"
    raise BadWeights(
        f"{where}holds no state dict of tensors{several if others else ''}; {SAVE_TENSORS}"
    )


def _holds_weights(value: Any) -> bool:
    """Whether a value is a state dict, or has one under a key that trainers use."""
    return isinstance(value, Mapping) and (
        _is_state_dict(value)
        or any(_holds_weights(value.get(key)) for key in (*AVERAGED, *WRAPPERS))
    )


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping has names of tensors; an optimiser's state has numbers."""
    tensors = [name for name, entry in value.items() if isinstance(entry, Tensor)]
    return bool(tensors) and all(isinstance(name, str) for name in tensors)


def _join(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def _reason(error: Exception) -> str:
    """Return the first sentence of an error, without the codes that colour a terminal."""
    text = _ESCAPE_CODES.sub("", str(error)).strip()
    named = re.search(r"(?:GLOBAL|function) <?(?:function |class ')?([\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and named:
        return f"it refers to {named[1]}, which is no tensor and no plain container"
    return (text.splitlines() or [type(error).__name__])[0]
