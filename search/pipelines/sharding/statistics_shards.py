"""`merge-search stats`: the statistics in shards, measured on any machines and then summed.

Each part of the frames is measured by itself, as in a run. A shard has whole blocks of frames:
every N-th of the blocks of all parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import BadFrames, FrameSet, Subset, split_frames, split_parts
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import open_frames
from search.pipelines.sharding.shard_files import (
    TENSOR_FILES,
    check_distinct,
    check_none_missing,
    check_one_count,
    shard_files,
    shard_name,
)
from search.pipelines.statistics_cache import measure_moments, statistics_key, statistics_path
from search.statistics.storage import (
    BadStatistics,
    StoredMoments,
    read_moments,
    read_origin,
    write_moments,
)
from search.statistics.streaming import ALL_BATCHES, Shard
from search.utils.files import make_folder
from search.utils.reporter import Reporter
from spaces.deployment import Deployment

STATISTICS_SHARDS = "stats"


@dataclass(frozen=True)
class PartBlocks:
    """The blocks of one part of the frames, and their place among those of all parts."""

    number: int
    """1 is the first part."""
    frames: Subset
    key: str
    first: int
    """Number of blocks of all parts before this one."""
    blocks: int

    def own_shard(self, shard: Shard) -> Shard:
        """Return which blocks of this part belong to a shard of the whole, as a shard of it."""
        return Shard((shard.number - 1 - self.first) % shard.count + 1, shard.count)

    def whole_shard(self, own: Shard) -> Shard:
        """Return the shard of the whole that has this shard of the part."""
        return Shard((own.number - 1 + self.first) % own.count + 1, own.count)

    def has(self, own: Shard) -> bool:
        """Whether a shard of this part holds any block."""
        return own.number <= self.blocks


def measure_statistics_shard(config: RunConfig, shard: Shard, reporter: Reporter) -> list[Path]:
    """Measure one shard of the statistics that a run of the config needs.

    Return its files, one for each part of the frames that it has blocks of.

    Raises:
        BadFrames: there are too few frames, or fewer blocks than shards.
    """
    deployment = load_deployment(config, reporter)
    parts = _parts_in_blocks(config, deployment, reporter)
    own = [(part, part.own_shard(shard)) for part in parts]
    own = [(part, own_shard) for part, own_shard in own if part.has(own_shard)]
    if not own:
        raise BadFrames(
            f"shard {shard}: the frames make no more than {sum(part.blocks for part in parts)} "
            f"shards, of whole batches of {config.pass_settings.batch}; use fewer shards"
        )
    folder = make_folder(config.out_folder) / STATISTICS_SHARDS
    reporter.step(f"Statistics of every stage, shard {shard}")
    paths = []
    for part, own_shard in own:
        moments = measure_moments(config, deployment, part.frames, reporter, own_shard)
        ending = "" if len(parts) == 1 else f".part-{part.number}"
        path = folder / f"{shard_name(shard)}{ending}{TENSOR_FILES}"
        write_moments(path, StoredMoments(moments, part.key, own_shard))
        paths.append(path)
    return paths


def merge_statistics_shards(
    config: RunConfig, files: Sequence[Path], reporter: Reporter
) -> list[Path]:
    """Sum the shards into the statistics cache, where every other command reads the sums.

    Without `files`, sum all shards under OUT. Return the path of each part's sum.

    Raises:
        BadStatistics: a file is damaged, or belongs to another config.
        BadShards: a shard is missing, or is given twice.
    """
    listed = shard_files(config.out_folder / STATISTICS_SHARDS, files, TENSOR_FILES)
    deployment = load_deployment(config, reporter)
    parts = _parts_in_blocks(config, deployment, reporter)
    reporter.step(f"Summing {len(listed)} shards")
    with reporter.working("shards"):
        files_by_part = _files_by_part(listed, parts)
        sums = [_sum_shards(files_by_part[part.key]) for part in parts]
        paths = [statistics_path(config, part.key) for part in parts]
        for path, total in zip(paths, sums, strict=True):
            write_moments(path, StoredMoments(total.moments, total.key, ALL_BATCHES))
    return paths


def _parts_in_blocks(
    config: RunConfig, deployment: Deployment, reporter: Reporter
) -> list[PartBlocks]:
    """Return the frames that the statistics are measured on, part by part.

    Raises:
        BadFrames: there are too few frames, or a part has too few.
    """
    frames = open_frames(config, reporter)
    _check_frame_count(config, frames)
    parts: list[PartBlocks] = []
    first = 0
    for number, (used, _) in enumerate(split_parts(frames, config.verify.fidelity_frames), 1):
        blocks = len(config.pass_settings.blocks(used))
        key = statistics_key(config, deployment, used)
        parts.append(PartBlocks(number, used, key, first, blocks))
        first += blocks
    return parts


def _check_frame_count(config: RunConfig, frames: FrameSet) -> None:
    used, held_out = split_frames(frames, config.verify.fidelity_frames)
    config.pass_settings.check_frame_count(len(used), len(held_out))


def _files_by_part(files: Sequence[Path], parts: Sequence[PartBlocks]) -> dict[str, list[Path]]:
    """Return the files of each part by its key.

    Raises:
        BadStatistics: a file is damaged, or belongs to another config.
        BadShards: a shard is missing, or is given twice.
    """
    origins = {file: read_origin(file) for file in files}
    by_key: dict[str, list[tuple[Path, Shard]]] = {part.key: [] for part in parts}
    for file in files:
        key, own_shard = origins[file]
        if key not in by_key:
            raise BadStatistics(
                f"{file} is not of this config: its models, weights, frames or statistics "
                "settings differ"
            )
        by_key[key].append((file, own_shard))
    check_one_count([(file, shard) for file, (_, shard) in origins.items()])
    for part in parts:
        check_distinct([(file, part.whole_shard(own)) for file, own in by_key[part.key]])
    count = next(iter(origins.values()))[1].count
    check_none_missing(
        part.whole_shard(own)
        for part in parts
        for own in (Shard(number, count) for number in range(1, count + 1))
        if part.has(own) and own not in [shard for _, shard in by_key[part.key]]
    )
    return {key: [file for file, _ in own_files] for key, own_files in by_key.items()}


def _sum_shards(files: Sequence[Path]) -> StoredMoments:
    """Return the moments of all shards of a part, which are read one after the other."""
    total = read_moments(files[0])
    for file in files[1:]:
        total.moments.merge(read_moments(file).moments)
    return total
