"""From a config to surveyed models, and from frames to similarities; every command starts here."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from search.config import RunConfig
from search.console import Reporter
from search.files import make_folder
from search.frames import FrameSet, overlap, split
from search.metrics import METRICS
from search.moments import WHOLE, Moments, Shard, measure
from search.moments_file import Saved, load, save
from search.observed import Deployment, Observed
from search.problem import Problem
from search.similarity import Statistics
from search.truth import BadTruth, BoxTruth, Truth, check_classes
from spaces.cost import CostModel
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
    specs = config.model_specs()
    models: dict[str, StagedModel] = {}
    with reporter.progress("models", len(specs)) as progress:
        for name, spec in specs.items():
            models[name] = _load(spec, config.seed)
            progress(1)
    with reporter.working("stages"):
        facts = survey_all(models, config.dtype)
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


def open_frames(config: RunConfig, reporter: Reporter) -> FrameSet:
    """The unlabelled frames of the config; what they are is hashed, which takes its time."""
    with reporter.working("frames"):
        return config.frames.open(config.base)


def open_truth(
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> dict[str, Truth]:
    """The ground truth of every model that has one, checked against the model's classes.

    What of it is not measured is told.

    Raises:
        BadTruth: labels and model do not fit, or the labelled frames are among the unlabelled.
    """
    truth: dict[str, Truth] = {}
    for name, section in config.truth.items():
        model = deployment.models[name]
        with reporter.working(f"labelled frames of {name}"):
            known = section.open(config.base, model.task, name)
        check_classes(known, model.num_classes, name)
        if isinstance(known, BoxTruth) and (part := known.part_measured(model.num_classes)):
            reporter.say(f"  {name}: {part}")
        if overlap(known.frames, frames):
            raise BadTruth(
                f"truth.{name}: {overlap(known.frames, frames)} of its frames are also among "
                "`frames`: accuracy must be measured on others (see stride and offset)"
            )
        truth[name] = known
    return truth


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


def pose(config: RunConfig, deployment: Deployment, similarity: Mapping[Share, float]) -> Problem:
    """What the config asks of these models: the shares worth a look, limits and objectives."""
    facts = deployment.facts
    return Problem(
        facts=facts,
        kept={s: value for s, value in similarity.items() if value > config.search.floor},
        limits=config.limits(CostModel(facts).unmerged_bytes),
        costs=tuple(config.search.objectives),
    )


def statistics_key(config: RunConfig, deployment: Deployment, frames: FrameSet) -> str:
    """A hash of all that the statistics depend on: models, pairs, frames and settings."""
    seen = {
        "models": {name: fingerprint(model) for name, model in deployment.models.items()},
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


def _cached_moments(
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> Moments:
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


def fingerprint(model: StagedModel) -> str:
    """A hash of a model's stages, input and weights."""
    digest = hashlib.sha256(repr((model.layout, model.input, model.num_classes)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
