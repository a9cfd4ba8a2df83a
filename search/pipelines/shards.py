"""The statistics in parts, measured wherever and whenever, and summed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import BadFrames, Subset, parts_of, split_frames
from search.pipelines.prepare import load_deployment, open_frames
from search.pipelines.statistics_cache import cached_statistics, statistics_key, take_moments
from search.statistics.storage import BadStatistics, Saved, load, save
from search.statistics.streaming import WHOLE, Shard
from search.utils.reporter import Reporter

FOLDER = "stats"


def measure_shard(config: RunConfig, shard: Shard, reporter: Reporter) -> Path:
    """Take one shard of the statistics that a run of the config needs, into OUT/stats.

    Raises:
        BadFrames: there are too few, or they are in parts.
    """
    deployment = load_deployment(config, reporter)
    seen = _seen(config, reporter)
    config.pass_settings.demand(len(seen))
    key = statistics_key(config, deployment, seen)
    reporter.step(f"Statistics of every stage, shard {shard}")
    moments = take_moments(config, deployment, seen, reporter, shard)
    path = config.out_folder / FOLDER / f"{shard.number}-of-{shard.count}.safetensors"
    save(path, Saved(moments, key, shard))
    return path


def merge_shards(config: RunConfig, files: Sequence[Path], reporter: Reporter) -> Path:
    """Sum the shards and leave the sum where every other command finds it as its own.

    Raises:
        BadStatistics: a shard is missing, is there twice, or belongs to something else.
        BadFrames: the frames are in parts.
    """
    found = files or sorted((config.out_folder / FOLDER).glob("*.safetensors"))
    if not found:
        raise BadStatistics(f"there are no shards in {config.out_folder / FOLDER}")
    deployment = load_deployment(config, reporter)
    key = statistics_key(config, deployment, _seen(config, reporter))
    reporter.step(f"Summing {len(found)} shards")
    path = cached_statistics(config, key)
    with reporter.working("shards"):
        save(path, Saved(_sum(found, key).moments, key, WHOLE))
    return path


def _seen(config: RunConfig, reporter: Reporter) -> Subset:
    """The frames that the statistics see."""
    frames = open_frames(config, reporter)
    if len(parts_of(frames)) > 1:
        raise BadFrames(
            "frames.parts: their statistics are kept part by part, and a part that was measured "
            "is not measured again, so `stats` takes no shards of them; `run` measures what is new"
        )
    return split_frames(frames, config.verify.fidelity_frames)[0]


def _sum(files: Sequence[Path], key: str) -> Saved:
    first, *others = files
    total = _own(first, key)
    known = {total.shard.number: first}
    for file in others:
        part = _own(file, key)
        if part.shard.count != total.shard.count:
            raise BadStatistics(
                f"{file} is shard {part.shard}, but {first} is shard {total.shard}: all must be "
                "of one number of shards"
            )
        if part.shard.number in known:
            raise BadStatistics(
                f"{file} is shard {part.shard}, as {known[part.shard.number]} is: give each once"
            )
        known[part.shard.number] = file
        total.moments.merge(part.moments)
    missing = sorted(set(range(1, total.shard.count + 1)) - set(known))
    if missing:
        listed = ", ".join(f"{number}/{total.shard.count}" for number in missing)
        raise BadStatistics(f"missing of the shards: {listed}; measure them with --shard")
    return total


def _own(file: Path, key: str) -> Saved:
    saved = load(file)
    if saved.key != key:
        raise BadStatistics(
            f"{file} is not of this config: its models, weights, frames or statistics settings "
            "are others"
        )
    return saved
