"""The tensors of several objects in one file: names of those of object 3 begin with `3.`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaces.stages import total_bytes


def find_different(
    parts: Sequence[Mapping[str, Tensor] | None],
) -> tuple[list[Mapping[str, Tensor]], list[int | None]]:
    """Return the parts that differ, and of which number among them each part is."""
    different: list[Mapping[str, Tensor]] = []
    numbers: list[int | None] = []
    for part in parts:
        if part is None:
            numbers.append(None)
            continue
        equal = (k for k, other in enumerate(different) if _are_equal(part, other))
        number = next(equal, len(different))
        if number == len(different):
            different.append(part)
        numbers.append(number)
    return different, numbers


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )


def write_numbered(parts: Sequence[Mapping[str, Tensor]], path: Path) -> int:
    """Write the tensors of all parts into one file; return their bytes."""
    tensors = {
        f"{number}.{name}": tensor.cpu().contiguous().clone()
        for number, part in enumerate(parts)
        for name, tensor in part.items()
    }
    save_file(tensors, path)
    return total_bytes([*tensors.values()])


def read_numbered(path: Path) -> dict[int, dict[str, Tensor]]:
    """Return the tensors of each part by its number."""
    parts: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(path).items():
        number, _, name = key.partition(".")
        parts.setdefault(int(number), {})[name] = tensor
    return parts
