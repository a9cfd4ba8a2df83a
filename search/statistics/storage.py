"""Moments on disk: a safetensors file with a JSON header; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from search.statistics.second_moments import GridColumns, SecondMoments
from search.statistics.streaming import Moments, Shard
from search.utils.tensors import read_header, write_tensors
from spaces.errors import MergeSearchError
from spaces.plan import Ref

FORMAT_NAME = "merge-search statistics"


class BadStatistics(MergeSearchError):
    """A file of statistics cannot be read, or belongs to other models, frames or settings."""


@dataclass(frozen=True)
class StoredMoments:
    """The moments of one shard, with the key that identifies their origin."""

    moments: Moments
    key: str
    """Hash of the models, pairs, frames and settings."""
    shard: Shard


def write_moments(path: Path, stored: StoredMoments) -> None:
    """Write the file atomically.

    Raises:
        CannotWrite: the folder cannot be written to, or the disk is full.
    """
    moments = stored.moments
    header = {
        "key": stored.key,
        "shard": [stored.shard.number, stored.shard.count],
        "refs": [str(ref) for ref in moments.refs],
        "frames": moments.frames,
        "grids": [
            {
                "grid": grid,
                "columns": _columns_header(next(iter(folds.values())).columns),
                "counts": {fold: part.count for fold, part in folds.items()},
            }
            for grid, folds in moments.grids.items()
        ],
    }
    tensors = {"hsic": torch.from_numpy(moments.hsic)}
    for number, folds in enumerate(moments.grids.values()):
        for fold, part in folds.items():
            tensors |= {f"{number}/{fold}/{name}": tensor for name, tensor in _named_tensors(part)}
    write_tensors(path, tensors, FORMAT_NAME, header)


def read_moments(path: Path) -> StoredMoments:
    """Read a file that `write_moments` has written.

    Raises:
        BadStatistics: the file is missing, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = read_header(file, FORMAT_NAME)
            moments = Moments(
                tuple(Ref.parse(ref) for ref in header["refs"]),
                int(header["frames"]),
                file.get_tensor("hsic").numpy(),
                {
                    tuple(entry["grid"]) if entry["grid"] else None: {
                        fold: _part(file, f"{number}/{fold}", entry["columns"], count)
                        for fold, count in entry["counts"].items()
                    }
                    for number, entry in enumerate(header["grids"])
                },
            )
            return StoredMoments(moments, str(header["key"]), Shard(*header["shard"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadStatistics(
            f"{path}: not a complete file of statistics ({type(error).__name__}); delete it to "
            "measure them again"
        ) from error


def _named_tensors(part: SecondMoments) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"mean/{model}", mean) for model, mean in part.means.items())
    yield from ((f"square/{ref}", square) for ref, square in part.squares.items())
    yield from ((f"product/{one}/{two}", block) for (one, two), block in part.products.items())


def _part(file: Any, prefix: str, columns: dict[str, Any], count: int) -> SecondMoments:
    part = SecondMoments(_columns(columns), count)
    if count:
        layout = part.columns
        part.means = {m: file.get_tensor(f"{prefix}/mean/{m}") for m in layout.recipients}
        part.squares = {ref: file.get_tensor(f"{prefix}/square/{ref}") for ref in layout.channels}
        part.products = {
            (one, two): file.get_tensor(f"{prefix}/product/{one}/{two}")
            for one, two, _, _ in layout.blocks()
        }
    return part


def _columns_header(columns: GridColumns) -> dict[str, Any]:
    return {
        "recipients": {m: [ref.stage for ref in refs] for m, refs in columns.recipients.items()},
        "donors": {m: [ref.stage for ref in refs] for m, refs in columns.donors.items()},
        "channels": {str(ref): width for ref, width in columns.channels.items()},
        "couples": columns.couples,
    }


def _columns(header: dict[str, Any]) -> GridColumns:
    def refs(names: dict[str, list[str]]) -> dict[str, tuple[Ref, ...]]:
        return {model: tuple(Ref(model, s) for s in stages) for model, stages in names.items()}

    return GridColumns(
        refs(header["recipients"]),
        refs(header["donors"]),
        {Ref.parse(ref): width for ref, width in header["channels"].items()},
        tuple((one, other) for one, other in header["couples"]),
    )
