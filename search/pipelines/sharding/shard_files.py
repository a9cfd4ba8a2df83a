"""The files of shards: which there must be, and what is wrong with those that there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from search.data.frames import BadFrames
from search.statistics.streaming import Shard
from spaces.errors import MergeSearchError

TENSOR_FILES = ".safetensors"
"""The suffix of shards that are tensors."""


class BadShards(MergeSearchError):
    """Files of shards are missing, given twice, or do not belong together."""


def shard_files(folder: Path, files: Sequence[Path], suffix: str) -> list[Path]:
    """Return `files`; if there are none, all in the folder with that suffix.

    Raises:
        BadShards: there are none at all.
    """
    listed = [*files] or sorted(folder.glob(f"[!.]*{suffix}"))
    if not listed:
        raise BadShards(f"there are no shards in {folder}: measure them with --shard")
    return listed


def shard_name(shard: Shard) -> str:
    """Return the name of a shard's file, without its suffix."""
    return f"{shard.number}-of-{shard.count}"


def check_share_of_work(shard: Shard, units: int, what: str) -> None:
    """Check that every shard of this count has at least one of `units` to measure.

    Raises:
        BadFrames: there are more shards than units.
    """
    if shard.count > units:
        raise BadFrames(
            f"shard {shard}: there are only {units} {what} to share out; use fewer shards"
        )


def check_complete(shards: Sequence[tuple[Path, Shard]]) -> None:
    """Check that the files are all shards of one count, each once.

    Raises:
        BadShards: they are of several counts, or one is missing or given twice.
    """
    check_one_count(shards)
    check_distinct(shards)
    count = shards[0][1].count
    present = {shard.number for _, shard in shards}
    check_none_missing(Shard(n, count) for n in range(1, count + 1) if n not in present)


def check_one_count(shards: Sequence[tuple[Path, Shard]]) -> None:
    """Check that the files are shards of one count.

    Raises:
        BadShards: they are not.
    """
    first_file, first = shards[0]
    for file, shard in shards:
        if shard.count != first.count:
            raise BadShards(
                f"{file} is shard {shard}, but {first_file} is shard {first}: all must be of one "
                "number of shards"
            )


def check_distinct(shards: Sequence[tuple[Path, Shard]]) -> None:
    """Check that no shard is given twice.

    Raises:
        BadShards: one is.
    """
    files: dict[Shard, Path] = {}
    for file, shard in shards:
        if shard in files:
            raise BadShards(f"{file} is shard {shard}, as {files[shard]} is: give each shard once")
        files[shard] = file


def check_none_missing(missing: Iterable[Shard]) -> None:
    """Check that there are no missing shards.

    Raises:
        BadShards: there are; the message names them.
    """
    listed = sorted({*missing}, key=lambda shard: shard.number)
    if listed:
        raise BadShards(
            f"missing of the shards: {', '.join(map(str, listed))}; measure them with --shard"
        )
