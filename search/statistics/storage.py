"""Moments on disk: one safetensors file, of which nothing is unpickled, and its JSON header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from search.statistics.second_moments import Columns, SecondMoments
from search.statistics.streaming import Moments, Shard
from search.utils.tensors import header_of, write_tensors
from spaces.errors import MergeSearchError
from spaces.plan import Ref

HEADER = "merge-search statistics"


class BadStatistics(MergeSearchError):
    """A file of statistics that cannot be read, or does not belong where it lies."""


@dataclass(frozen=True)
class Saved:
    """Moments, and what they are of: a key of models, pairs, frames and settings; which shard."""

    moments: Moments
    key: str
    shard: Shard


def save(path: Path, saved: Saved) -> None:
    """Write the file, wholly or not at all.

    Raises:
        CannotWrite: the folder does not take it.
    """
    moments = saved.moments
    header = {
        "key": saved.key,
        "shard": [saved.shard.number, saved.shard.count],
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
            tensors |= {f"{number}/{fold}/{name}": tensor for name, tensor in _named(part)}
    write_tensors(path, tensors, HEADER, header)


def load(path: Path) -> Saved:
    """Read a file that `save` has written.

    Raises:
        BadStatistics: it is damaged, or is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = header_of(file, HEADER)
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
            return Saved(moments, str(header["key"]), Shard(*header["shard"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadStatistics(
            f"{path} is not a whole file of statistics ({type(error).__name__}); delete it, and "
            "it is measured again"
        ) from error


def _named(part: SecondMoments) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"mean/{model}", mean) for model, mean in part.means.items())
    yield from ((f"square/{ref}", square) for ref, square in part.squares.items())
    yield from ((f"product/{one}/{two}", block) for (one, two), block in part.products.items())


def _part(file: Any, prefix: str, columns: dict[str, Any], count: int) -> SecondMoments:
    part = SecondMoments(_columns(columns), count)
    if count:
        read = part.columns
        part.means = {m: file.get_tensor(f"{prefix}/mean/{m}") for m in read.recipients}
        part.squares = {ref: file.get_tensor(f"{prefix}/square/{ref}") for ref in read.channels}
        part.products = {
            (one, two): file.get_tensor(f"{prefix}/product/{one}/{two}")
            for one, two, _, _ in read.blocks()
        }
    return part


def _columns_header(columns: Columns) -> dict[str, Any]:
    return {
        "recipients": {m: [ref.stage for ref in refs] for m, refs in columns.recipients.items()},
        "donors": {m: [ref.stage for ref in refs] for m, refs in columns.donors.items()},
        "channels": {str(ref): width for ref, width in columns.channels.items()},
        "couples": columns.couples,
    }


def _columns(header: dict[str, Any]) -> Columns:
    def refs(names: dict[str, list[str]]) -> dict[str, tuple[Ref, ...]]:
        return {model: tuple(Ref(model, s) for s in stages) for model, stages in names.items()}

    return Columns(
        refs(header["recipients"]),
        refs(header["donors"]),
        {Ref.parse(ref): width for ref, width in header["channels"].items()},
        tuple((one, other) for one, other in header["couples"]),
    )
