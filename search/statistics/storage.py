"""The result of a pass on disk: a safetensors file with a JSON header; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from search.statistics.rows import Block, CodedRows, GridRows
from search.statistics.streaming import Moments, Shard
from search.utils.tensors import read_header, write_tensors
from spaces.errors import MergeSearchError
from spaces.plan import Ref
from spaces.shares import Pair

FORMAT_NAME = "merge-search statistics"
FORMAT_VERSION = 2
"""Version 1 held products of representations, and no version."""


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
        "version": FORMAT_VERSION,
        "key": stored.key,
        "shard": [stored.shard.number, stored.shard.count],
        "refs": [str(ref) for ref in moments.refs],
        "frames": moments.frames,
        "grids": [
            {
                "grid": grid,
                "pairs": [[str(pair.donor), str(pair.recipient)] for pair in rows.pairs],
                "blocks": [astuple(block) for block in rows.blocks],
            }
            for grid, rows in moments.grids.items()
        ],
    }
    tensors = {"hsic": torch.from_numpy(moments.hsic)}
    for number, rows in enumerate(moments.grids.values()):
        for ref, coded in rows.coded.items():
            tensors |= {f"{number}/{ref}/{name}": tensor for name, tensor in vars(coded).items()}
    write_tensors(path, tensors, FORMAT_NAME, header)


def read_moments(path: Path) -> StoredMoments:
    """Read a file that `write_moments` has written.

    Raises:
        BadStatistics: the file is missing, damaged, or of another kind.
    """
    with _opened(path) as (file, header):
        moments = Moments(
            tuple(Ref.parse(ref) for ref in header["refs"]),
            int(header["frames"]),
            file.get_tensor("hsic").numpy(),
            {
                tuple(entry["grid"]) if entry["grid"] else None: _grid_rows(
                    file, str(number), entry
                )
                for number, entry in enumerate(header["grids"])
            },
        )
        return StoredMoments(moments, *_origin(header))


def read_origin(path: Path) -> tuple[str, Shard]:
    """Return the key and the shard of a file that `write_moments` has written.

    Raises:
        BadStatistics: as `read_moments`.
    """
    with _opened(path) as (_, header):
        return _origin(header)


def _origin(header: Mapping[str, Any]) -> tuple[str, Shard]:
    return str(header["key"]), Shard(*header["shard"])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield the open file and its header.

    Raises:
        BadStatistics: the file is missing, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = read_header(file, FORMAT_NAME)
            if header.get("version") != FORMAT_VERSION:
                raise BadStatistics(
                    f"{path}: statistics of another version of merge-search; measure them again"
                )
            yield file, header
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadStatistics(
            f"{path}: not a complete file of statistics ({type(error).__name__}); delete it to "
            "measure them again"
        ) from error


def _grid_rows(file: Any, prefix: str, entry: Mapping[str, Any]) -> GridRows:
    pairs = [Pair(Ref.parse(donor), Ref.parse(recipient)) for donor, recipient in entry["pairs"]]
    rows = GridRows(tuple(pairs), tuple(Block(*block) for block in entry["blocks"]))
    if rows.blocks:
        rows.coded = {ref: _coded(file, f"{prefix}/{ref}") for ref in rows.refs}
    return rows


def _coded(file: Any, prefix: str) -> CodedRows:
    names = (field.name for field in fields(CodedRows))
    return CodedRows(*(file.get_tensor(f"{prefix}/{name}") for name in names))
