"""`merge-search stats`: the statistics in shards, measured on any machines and then summed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import BadFrames, Subset, parts_of, split_frames
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import open_frames
from search.pipelines.statistics_cache import measure_moments, statistics_key, statistics_path
from search.statistics.storage import BadStatistics, StoredMoments, read_moments, write_moments
from search.statistics.streaming import ALL_BATCHES, Shard
from search.utils.reporter import Reporter

SHARD_FOLDER = "stats"


def measure_shard(config: RunConfig, shard: Shard, reporter: Reporter) -> Path:
    """Measure one shard of the statistics that a run of the config needs; return its file.

    Raises:
        BadFrames: there are too few frames, or they are in parts.
    """
    deployment = load_deployment(config, reporter)
    frames = statistics_frames(config, reporter)
    config.pass_settings.check_frame_count(len(frames), len(frames.frames) - len(frames))
    key = statistics_key(config, deployment, frames)
    reporter.step(f"Statistics of every stage, shard {shard}")
    moments = measure_moments(config, deployment, frames, reporter, shard)
    path = config.out_folder / SHARD_FOLDER / f"{shard.number}-of-{shard.count}.safetensors"
    write_moments(path, StoredMoments(moments, key, shard))
    return path


def merge_shards(config: RunConfig, files: Sequence[Path], reporter: Reporter) -> Path:
    """Sum the shards into the statistics cache, where every other command reads the sum.

    Without `files`, sum all shards under OUT. Return the path of the sum.

    Raises:
        BadStatistics: a shard is missing, is given twice, or belongs to another config.
        BadFrames: the frames are in parts.
    """
    shard_files = files or sorted((config.out_folder / SHARD_FOLDER).glob("*.safetensors"))
    if not shard_files:
        raise BadStatistics(f"there are no shards in {config.out_folder / SHARD_FOLDER}")
    deployment = load_deployment(config, reporter)
    key = statistics_key(config, deployment, statistics_frames(config, reporter))
    reporter.step(f"Summing {len(shard_files)} shards")
    path = statistics_path(config, key)
    with reporter.working("shards"):
        write_moments(path, StoredMoments(_sum_shards(shard_files, key).moments, key, ALL_BATCHES))
    return path


def statistics_frames(config: RunConfig, reporter: Reporter) -> Subset:
    """Return the frames that the statistics are measured on.

    Raises:
        BadFrames: the frames are in parts.
    """
    frames = open_frames(config, reporter)
    if len(parts_of(frames)) > 1:
        raise BadFrames(
            "frames.parts: `stats` cannot split frames in parts into shards; `run` caches the "
            "statistics of each part and measures only the parts that are new"
        )
    return split_frames(frames, config.verify.fidelity_frames)[0]


def _sum_shards(files: Sequence[Path], key: str) -> StoredMoments:
    first, *others = files
    total = _load_shard(first, key)
    file_by_number = {total.shard.number: first}
    for file in others:
        part = _load_shard(file, key)
        if part.shard.count != total.shard.count:
            raise BadStatistics(
                f"{file} is shard {part.shard}, but {first} is shard {total.shard}: all must be "
                "of one number of shards"
            )
        if part.shard.number in file_by_number:
            raise BadStatistics(
                f"{file} is shard {part.shard}, as {file_by_number[part.shard.number]} is: give "
                "each shard once"
            )
        file_by_number[part.shard.number] = file
        total.moments.merge(part.moments)
    missing = sorted(set(range(1, total.shard.count + 1)) - set(file_by_number))
    if missing:
        listed = ", ".join(f"{number}/{total.shard.count}" for number in missing)
        raise BadStatistics(f"missing of the shards: {listed}; measure them with --shard")
    return total


def _load_shard(file: Path, key: str) -> StoredMoments:
    saved = read_moments(file)
    if saved.key != key:
        raise BadStatistics(
            f"{file} is not of this config: its models, weights, frames or statistics settings "
            "differ"
        )
    return saved
