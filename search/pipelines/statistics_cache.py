"""The statistics of frame sets: measured once, cached under a key of all that they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import FrameSet
from search.statistics.storage import StoredMoments, read_moments, write_moments
from search.statistics.streaming import ALL_BATCHES, Moments, Shard, accumulate_moments
from search.utils.files import make_folder
from search.utils.reporter import Reporter
from spaces.deployment import Deployment

STATISTICS_VERSION = 3
"""Part of the cache key: increase it when the pass computes something else."""


def statistics_key(config: RunConfig, deployment: Deployment, frames: FrameSet) -> str:
    """Return a hash of all that the statistics depend on: models, pairs, frames and settings."""
    inputs = {
        "models": deployment.fingerprints,
        "pairs": [str(pair) for pair in deployment.pairs.legal],
        "frames": frames.hash,
        "settings": repr(config.pass_settings),
    }
    return hashlib.sha256(f"{STATISTICS_VERSION} {inputs}".encode()).hexdigest()[:16]


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
    total = sum(len(batch) for batch in shard.of(settings.batches(frames)))
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
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> Moments:
    """Read the moments from the cache; if they are not there, measure and cache them."""
    key = statistics_key(config, deployment, frames)
    path = statistics_path(config, key)
    if path.is_file():
        reporter.say("  cached from an earlier run on the same models and frames")
        with reporter.working("reading the cache"):
            return read_moments(path).moments
    moments = measure_moments(config, deployment, frames, reporter)
    with reporter.working("writing the cache"):
        write_moments(path, StoredMoments(moments, key, ALL_BATCHES))
    return moments


def sum_moments(moments: Iterable[Moments]) -> Moments:
    """Return the moments of all frame sets together. The first of `moments` becomes the sum."""
    total, *others = moments
    for part in others:
        total.merge(part)
    return total
