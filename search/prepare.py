"""From a config to surveyed models, and from frames to similarities; every command starts here."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import torch

from search.config import RunConfig
from search.console import Reporter
from search.files import make_folder
from search.frames import FrameSet, split
from search.metrics import METRICS
from search.moments import Moments, PassSettings, measure
from search.observed import Deployment, Observed
from search.similarity import Statistics
from spaces.errors import MergeSearchError
from spaces.facts import survey_all
from spaces.plan import AdapterSpec, Share
from spaces.shares import pairs_of, shares_of
from spaces.stages import StagedModel
from spaces.zoo import ModelSpec, load_model

STATISTICS_VERSION = 3
"""Part of the cache key: bump it when the pass computes something else."""


class NothingToShare(MergeSearchError):
    """The models have no legal pair of stages at all."""


def load_deployment(config: RunConfig, reporter: Reporter) -> Deployment:
    """Load, cut and survey the models, and move them to their device; print the stage tables."""
    device = config.torch_device
    reporter.step(f"Loading the models ({device})")
    models = {name: _load(spec, config.seed) for name, spec in config.model_specs().items()}
    facts = survey_all(models)
    models = {name: model.to(device) for name, model in models.items()}
    reporter.stage_table(facts)
    pairs = pairs_of(facts)
    if not pairs.legal:
        pair, reason = next(iter(pairs.rejected.items()))
        raise NothingToShare(f"no representation may replace another; {pair}, say: {reason}")
    return Deployment(models, facts, pairs)


def _load(spec: ModelSpec, seed: int) -> StagedModel:
    """`weights: none` are random: the same ones for the same seed and name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(spec.name.encode()))
        return load_model(spec)


def observe(
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> Observed:
    """One pass over the frames, or what an earlier one of the same has left in the cache."""
    seen, unseen = split(frames, config.verify.fidelity_frames)
    reporter.step(f"Statistics of every stage over {len(seen)} frames, one pass")
    moments = _cached_moments(config, deployment, seen, reporter)
    return Observed(deployment, Statistics(moments, deployment.facts), frames, unseen)


def similarities(
    config: RunConfig, observed: Observed, adapters: Sequence[AdapterSpec], reporter: Reporter
) -> dict[Share, float]:
    """The config's metric of every legal pair, with each adapter that fits it."""
    metric = METRICS[config.search.metric]
    deployment = observed.deployment
    shares = shares_of(deployment.pairs.legal, deployment.facts, adapters)
    reporter.step(f"Similarity of {len(shares)} legal shares: {metric.label}")
    with reporter.progress("shares", len(shares)) as progress:
        return metric.similarities(observed, shares, progress)


@dataclass(frozen=True)
class _Job:
    """What the cached function needs but is not keyed by."""

    deployment: Deployment
    frames: FrameSet
    settings: PassSettings
    reporter: Reporter


def _cached_moments(
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> Moments:
    settings = config.pass_settings
    seen = {
        "models": {name: fingerprint(model) for name, model in deployment.models.items()},
        "pairs": [str(pair) for pair in deployment.pairs.legal],
        "frames": frames.hash,
        "settings": repr(settings),
    }
    key = hashlib.sha256(f"{STATISTICS_VERSION} {seen}".encode()).hexdigest()[:16]
    memory = joblib.Memory(make_folder(config.cache_folder, "cache"), verbose=0)
    cached: Any = memory.cache(_measure, ignore=["job"])
    if cached.check_call_in_cache(key, None):
        reporter.say("  cached from an earlier run on the same models and frames")
    moments: Moments = cached(key, _Job(deployment, frames, settings, reporter))
    return moments


def _measure(key: str, job: _Job) -> Moments:
    with job.reporter.progress("frames", len(job.frames)) as progress:
        return measure(
            job.deployment.models,
            job.deployment.facts,
            job.deployment.pairs.legal,
            job.frames,
            job.settings,
            progress,
        )


def fingerprint(model: StagedModel) -> str:
    """A hash of a model's stages, input and weights."""
    digest = hashlib.sha256(repr((model.layout, model.input, model.num_classes)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
