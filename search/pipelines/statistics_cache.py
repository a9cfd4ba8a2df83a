"""The statistics of frame sets: measured once, cached under a key of all that they depend on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import FrameSet, frames_at
from search.execution.jobs import Engine
from search.statistics.moments_job import MomentsJob
from search.statistics.storage import StoredMoments, read_moments, write_moments
from search.statistics.streaming import ALL_BATCHES, Moments, Shard, accumulate_moments
from search.utils.files import make_folder, short_hash
from search.utils.reporter import Reporter
from spaces.deployment import Deployment
from spaces.inputs import PREPARATION_VERSION

STATISTICS_VERSION = 4
"""Part of the cache key: increase it when the pass computes something else."""


def statistics_key(config: RunConfig, deployment: Deployment, frames: FrameSet) -> str:
    """Return a hash of all that the statistics depend on: models, pairs, frames and settings."""
    inputs = {
        "models": deployment.fingerprints,
        "pairs": [str(pair) for pair in deployment.pairs.legal],
        "frames": frames.hash,
        "settings": repr(config.pass_settings),
    }
    versions = f"{STATISTICS_VERSION}.{PREPARATION_VERSION}"
    return short_hash(f"{versions} {inputs}")


def statistics_path(config: RunConfig, key: str) -> Path:
    """Return the cache file of the statistics with this key."""
    return make_folder(config.cache_folder, "cache") / "statistics" / f"{key}.safetensors"


def measure_moments(
    config: RunConfig,
    deployment: Deployment,
    frames: FrameSet,
    reporter: Reporter,
    shard: Shard = ALL_BATCHES,
) -> Moments:
    """Run the models once over one shard of the frames and accumulate their moments."""
    settings = config.pass_settings
    blocks = shard.of(settings.blocks(frames))
    total = sum(len(batch) for block in blocks for batch in block)
    legal_pairs = deployment.pairs.legal
    with reporter.progress("frames", total) as progress:
        return accumulate_moments(
            deployment.fused_models,
            deployment.facts,
            legal_pairs,
            frames,
            settings,
            progress,
            shard,
        )


def load_or_measure_moments(
    config: RunConfig,
    deployment: Deployment,
    frames: FrameSet,
    cluster: Engine | None,
    reporter: Reporter,
) -> Moments:
    """Read the moments from the cache; if they are not there, measure and cache them.

    A `cluster` measures them instead of this process.
    """
    key = statistics_key(config, deployment, frames)
    path = statistics_path(config, key)
    if path.is_file():
        reporter.say("  cached from an earlier run on the same models and frames")
        with reporter.working("reading the cache"):
            return read_moments(path).moments
    if cluster is None:
        moments = measure_moments(config, deployment, frames, reporter)
    else:
        moments = _measure_on_cluster(config, deployment, frames, cluster, reporter)
    with reporter.working("writing the cache"):
        write_moments(path, StoredMoments(moments, key, ALL_BATCHES))
    return moments


def _measure_on_cluster(
    config: RunConfig,
    deployment: Deployment,
    frames: FrameSet,
    cluster: Engine,
    reporter: Reporter,
) -> Moments:
    settings = config.pass_settings
    used = frames_at(frames, range(sum(len(batch) for batch in settings.batches(frames))))
    job = MomentsJob(tuple(deployment.pairs.legal), settings, len(frames))
    with reporter.progress("frames", len(used)) as progress:
        return sum_moments(cluster.run(job, used, progress))


def sum_moments(moments: Iterable[Moments]) -> Moments:
    """Return the moments of all frame sets together. The first of `moments` becomes the sum."""
    remaining = iter(moments)
    total = next(remaining)
    for part in remaining:
        total.merge(part)
    return total
