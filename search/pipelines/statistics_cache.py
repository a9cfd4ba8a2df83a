"""The statistics of sets of frames: measured once, kept under a key of all they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from search.config.run import RunConfig
from search.data.frames import FrameSet
from search.statistics.storage import Saved, load, save
from search.statistics.streaming import WHOLE, Moments, Shard, measure
from search.utils.files import make_folder
from search.utils.reporter import Reporter
from spaces.deployment import Deployment

STATISTICS_VERSION = 3
"""Part of the cache key: bump it when the pass computes something else."""


def statistics_key(config: RunConfig, deployment: Deployment, frames: FrameSet) -> str:
    """A hash of all that the statistics depend on: models, pairs, frames and settings."""
    seen = {
        "models": deployment.fingerprints,
        "pairs": [str(pair) for pair in deployment.pairs.legal],
        "frames": frames.hash,
        "settings": repr(config.pass_settings),
    }
    return hashlib.sha256(f"{STATISTICS_VERSION} {seen}".encode()).hexdigest()[:16]


def cached_statistics(config: RunConfig, key: str) -> Path:
    """Where the statistics of that key are kept."""
    return make_folder(config.cache_folder, "cache") / "statistics" / f"{key}.safetensors"


def take_moments(
    config: RunConfig,
    deployment: Deployment,
    frames: FrameSet,
    reporter: Reporter,
    shard: Shard = WHOLE,
) -> Moments:
    """The pass itself, over one shard of the frames."""
    settings = config.pass_settings
    total = sum(len(batch) for batch in shard.of(settings.batches(frames)))
    known = deployment
    with reporter.progress("frames", total) as progress:
        return measure(
            known.running, known.facts, known.pairs.legal, frames, settings, progress, shard
        )


def cached_moments(
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> Moments:
    """What an earlier pass over the same frames has left, or else the pass."""
    key = statistics_key(config, deployment, frames)
    path = cached_statistics(config, key)
    if path.is_file():
        reporter.say("  cached from an earlier run on the same models and frames")
        with reporter.working("reading them"):
            return load(path).moments
    moments = take_moments(config, deployment, frames, reporter)
    with reporter.working("keeping them"):
        save(path, Saved(moments, key, WHOLE))
    return moments


def summed(moments: Iterable[Moments]) -> Moments:
    """The moments of all frames together; the first of them becomes the sum."""
    total, *others = moments
    for part in others:
        total.merge(part)
    return total
