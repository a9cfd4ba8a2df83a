"""From a config to surveyed models, and from frames to similarities; every command starts here."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from search.config.run import RunConfig
from search.data.frames import (
    FrameSet,
    JoinedFrames,
    Subset,
    count_overlap,
    split_frames,
    split_parts,
)
from search.data.ground_truth import BadTruth, BoxTruth, Truth, check_classes
from search.metrics.registry import METRICS
from search.pipelines.statistics_cache import (
    cached_moments,
    cached_statistics,
    statistics_key,
    summed,
)
from search.report.console_tables import show_stages
from search.statistics.observed import Observed, Part
from search.statistics.similarity import Statistics
from search.statistics.storage import load
from search.study.problem import Problem
from search.utils.reporter import Reporter
from spaces.cost import CostModel
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError
from spaces.model_facts import survey_all
from spaces.plan import AdapterSpec, Share
from spaces.shares import pairs_of, shares_of
from spaces.stages import StagedModel
from spaces.zoo import ModelSpec, load_model


class NothingToShare(MergeSearchError):
    """The models have no legal pair of stages at all."""


def load_deployment(config: RunConfig, reporter: Reporter) -> Deployment:
    """Load, cut and survey the models, and move them to their device; print the stage tables."""
    deployment = surveyed(config, reporter)
    show_stages(deployment.facts, reporter)
    return deployment


def surveyed(config: RunConfig, reporter: Reporter) -> Deployment:
    """The same without the tables.

    Raises:
        NothingToShare: no representation may replace another.
    """
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
        if isinstance(known, BoxTruth) and (part := known.coverage_note(model.num_classes)):
            reporter.say(f"  {name}: {part}")
        if shared := count_overlap(known.frames, frames):
            raise BadTruth(
                f"truth.{name}: {shared} of its frames are also among "
                "`frames`: accuracy must be measured on others (see stride and offset)"
            )
        truth[name] = known
    return truth


def observe(
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> Observed:
    """One pass over the frames, or what an earlier one of the same has left in the cache.

    Of frames in parts each has its own pass, and only those that are new take theirs.

    Raises:
        BadFrames: there are too few frames, or a part has too few.
    """
    kept = config.verify.fidelity_frames
    seen, unseen = split_frames(frames, kept)
    config.pass_settings.demand(len(seen))
    reporter.step(f"Statistics of every stage over {len(seen)} frames, one pass")
    halves = split_parts(frames, kept)
    measured = (cached_moments(config, deployment, part, reporter) for part, _ in halves)
    statistics = Statistics(summed(measured), deployment.facts)
    parts = _parts(config, deployment, halves, statistics)
    return Observed(deployment, statistics, frames, unseen, parts)


def forget(config: RunConfig, deployment: Deployment, part: FrameSet) -> None:
    """Remove the statistics of frames that came after the config's own from the cache: they take
    as many bytes as those of all frames together."""
    joined = JoinedFrames((config.frames.open(config.base), part))
    *_, (seen, _) = split_parts(joined, config.verify.fidelity_frames)
    key = statistics_key(config, deployment, seen)
    cached_statistics(config, key).unlink(missing_ok=True)


def _parts(
    config: RunConfig,
    deployment: Deployment,
    halves: Sequence[tuple[Subset, Subset]],
    statistics: Statistics,
) -> tuple[Part, ...]:
    """What is known of each part, whichever come and go; `statistics` are those of all of them."""
    keys = [statistics_key(config, deployment, seen) for seen, _ in halves]
    parts = []
    for number, (_, unseen) in enumerate(halves):
        fitted_on = list(dict.fromkeys((keys[0], keys[number])))
        files = [cached_statistics(config, key) for key in fitted_on]
        known = (
            partial(_read, files, deployment)
            if len(fitted_on) < len(halves)
            else (lambda: statistics)
        )
        notes = config.cache_folder / "notes" / _hashed(*fitted_on, unseen.hash, config.dtype)
        parts.append(Part(unseen, known, notes))
    return tuple(parts)


def _read(files: Sequence[Path], deployment: Deployment) -> Statistics:
    return Statistics(summed(load(file).moments for file in files), deployment.facts)


def _hashed(*texts: str) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()[:16]


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


def build_problem(
    config: RunConfig, deployment: Deployment, similarity: Mapping[Share, float]
) -> Problem:
    """Return the search problem: the shares above `search.floor`, the limits, the objectives."""
    facts = deployment.facts
    return Problem(
        facts=facts,
        kept={s: value for s, value in similarity.items() if value > config.search.floor},
        limits=config.limits(CostModel(facts).unmerged_bytes),
        costs=tuple(config.search.objectives),
    )
