"""The common steps of commands: from a config to models, frames, statistics and search problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from search.cameras.deduplication import describe_repetition
from search.config.run import RunConfig
from search.data.frames import (
    FrameSet,
    JoinedFrames,
    Subset,
    count_overlap,
    remarks_of,
    split_frames,
    split_parts,
)
from search.data.ground_truth import BadTruth, Truth
from search.evaluation.tasks.registry import SCORING
from search.metrics.registry import METRICS
from search.metrics.rounding import rounding_losses
from search.pipelines.deployment.cluster import cluster_of
from search.pipelines.deployment.memory import check_memory
from search.pipelines.open_data import (
    open_frame_set,
    open_ground_truth,
)
from search.pipelines.statistics_cache import (
    load_or_measure_moments,
    statistics_key,
    statistics_path,
    sum_moments,
)
from search.statistics.observed import FramePart, Observed
from search.statistics.similarity import Statistics
from search.statistics.storage import BadStatistics, read_moments
from search.study.precision.profiles import (
    RoundingLosses,
    precision_profiles,
    weight_owners,
    with_profile_of,
)
from search.study.problem import Problem
from search.utils.files import short_hash
from search.utils.reporter import Reporter
from spaces.cost import CostModel
from spaces.deployment import Deployment
from spaces.plan import AdapterSpec, Share, SharePlan
from spaces.shares import Pair
from spaces.stages import StagedModel


def open_frames(config: RunConfig, reporter: Reporter) -> FrameSet:
    """Open the unlabelled frames of the config. Hashing them takes a while."""
    with reporter.working("frames"):
        frames = open_frame_set(config)
        repetition = describe_repetition(frames)
    print_remarks(frames, reporter)
    if repetition:
        reporter.warn(f"frames: {repetition}")
    return frames


def print_remarks(frames: FrameSet, reporter: Reporter) -> None:
    """Print what was left out of the files of a frame set."""
    remarks = remarks_of(frames)
    for note in remarks.notes:
        reporter.say(f"  {note}")
    for warning in remarks.warnings:
        reporter.warn(warning)


def open_truth(
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> dict[str, Truth]:
    """Open the ground truth of every model that has labels, and check it against the classes.

    What the labels do not cover, and what of them is left out, is printed.

    Raises:
        BadTruth: labels and model do not fit, or labelled frames are also among the unlabelled.
    """
    truth: dict[str, Truth] = {}
    for name in config.truth:
        model = deployment.models[name]
        with reporter.working(f"labelled frames of {name}"):
            labelled = open_truth_of(config, name, model, frames)
        print_remarks(labelled.frames, reporter)
        if note := labelled.coverage_note(model.num_classes):
            reporter.say(f"  {name}: {note}")
        truth[name] = labelled
    return truth


def open_truth_of(config: RunConfig, name: str, model: StagedModel, frames: FrameSet) -> Truth:
    """Open the ground truth of one model, and check it against its classes and the frames.

    Raises:
        BadTruth: labels and model do not fit, or labelled frames are also among the unlabelled.
    """
    labelled = open_ground_truth(config, name, model.task)
    SCORING[model.task].check(labelled, model.num_classes, name)
    if shared := count_overlap(labelled.frames, frames):
        raise BadTruth(
            f"truth.{name}: {shared} of its frames are also among "
            "`frames`: accuracy must be measured on others (see stride and offset)"
        )
    return labelled


def observe(
    config: RunConfig, deployment: Deployment, frames: FrameSet, reporter: Reporter
) -> Observed:
    """Measure the statistics in one pass over the frames, or read them from the cache.

    Frames in parts are cached part by part, so only new parts are measured.

    Raises:
        BadFrames: there are too few frames, or a part has too few.
        TooLittleMemory: the statistics and what follows need more memory than is left.
    """
    held_out_count = config.verify.fidelity_frames
    statistics_frames, held_out = split_frames(frames, held_out_count)
    count = len(statistics_frames)
    config.pass_settings.check_frame_count(count, len(held_out))
    halves = split_parts(frames, held_out_count)
    check_memory(deployment, config.pass_settings, [len(part) for part, _ in halves])
    reporter.step(f"Statistics of every stage over {count} frames, one pass")
    cluster = cluster_of(config, deployment)
    moments = (
        load_or_measure_moments(config, deployment, part, cluster, reporter) for part, _ in halves
    )
    statistics = Statistics(sum_moments(moments), deployment.facts)
    parts = _parts(config, deployment, halves, statistics)
    return Observed(deployment, statistics, frames, held_out, parts, cluster)


def check_statistics_cached(config: RunConfig, deployment: Deployment, frames: FrameSet) -> None:
    """Check that `observe` need not measure the statistics.

    Raises:
        BadStatistics: those of a part are not in the cache.
        BadFrames: there are too few frames, or a part has too few.
    """
    for statistics_frames, _ in split_parts(frames, config.verify.fidelity_frames):
        path = statistics_path(config, statistics_key(config, deployment, statistics_frames))
        if not path.is_file():
            raise BadStatistics(
                f"the statistics of these frames are not in the cache, {path}: before anything "
                "else is shared out, measure them with `merge-search stats` or copy the file there"
            )


def drop_cached_statistics(config: RunConfig, deployment: Deployment, part: FrameSet) -> None:
    """Remove the statistics of a part that was added to the config's frames from the cache.

    They take as many bytes as the statistics of all frames together.
    """
    joined = JoinedFrames((open_frame_set(config), part))
    *_, (statistics_frames, _) = split_parts(joined, config.verify.fidelity_frames)
    key = statistics_key(config, deployment, statistics_frames)
    statistics_path(config, key).unlink(missing_ok=True)


def _parts(
    config: RunConfig,
    deployment: Deployment,
    halves: Sequence[tuple[Subset, Subset]],
    statistics: Statistics,
) -> tuple[FramePart, ...]:
    """Return each part with its statistics. `statistics` are those of all parts together.

    A part depends on itself and on the first part only, so its cached values stay valid when
    other parts come and go.
    """
    folders = part_cache_folders(config, deployment, halves)
    parts = []
    for (_, held_out), fitted_on, folder in zip(
        halves, _fitted_on(config, deployment, halves), folders, strict=True
    ):
        files = [statistics_path(config, key) for key in fitted_on]
        load_statistics = (
            partial(_read_statistics, files, deployment)
            if len(fitted_on) < len(halves)
            else (lambda: statistics)
        )
        parts.append(FramePart(held_out, load_statistics, folder))
    return tuple(parts)


def part_cache_folders(
    config: RunConfig, deployment: Deployment, halves: Sequence[tuple[Subset, Subset]]
) -> list[Path]:
    """Return the folder for the cached values of each part, which `split_parts` has split.

    Its name is a hash of all that they depend on.
    """
    return [
        config.cache_folder / "notes" / _hash(*fitted_on, held_out.hash, config.dtype)
        for fitted_on, (_, held_out) in zip(
            _fitted_on(config, deployment, halves), halves, strict=True
        )
    ]


def _fitted_on(
    config: RunConfig, deployment: Deployment, halves: Sequence[tuple[Subset, Subset]]
) -> list[list[str]]:
    """Return the keys of the statistics that the maps of each part are fitted on."""
    keys = [statistics_key(config, deployment, frames) for frames, _ in halves]
    return [list(dict.fromkeys((keys[0], key))) for key in keys]


def _read_statistics(files: Sequence[Path], deployment: Deployment) -> Statistics:
    return Statistics(sum_moments(read_moments(file).moments for file in files), deployment.facts)


def _hash(*texts: str) -> str:
    return short_hash(" ".join(texts))


def compute_similarities(
    config: RunConfig, observed: Observed, adapters: Sequence[AdapterSpec], reporter: Reporter
) -> dict[Share, float]:
    """Compute the config's metric of every legal share, with each adapter that fits it.

    Shares between equal representations change nothing: their similarity is 1, unmeasured.
    """
    metric = METRICS[config.search.metric]
    deployment = observed.deployment
    identical = deployment.identical_pairs
    measured = measured_shares(deployment, adapters)
    reporter.step(f"Similarity of {len(measured)} legal shares: {metric.label}")
    if identical:
        reporter.say(
            f"  {len(identical)} more are between stages with the same weights: similarity 1"
        )
    with reporter.progress("shares", len(measured)) as progress:
        similarity = metric.similarities(observed, measured, progress)
    return {share: similarity.get(share, 1.0) for share in deployment.shares(adapters)}


def measured_shares(deployment: Deployment, adapters: Sequence[AdapterSpec]) -> list[Share]:
    """Return every legal share that changes something, with each adapter that fits it."""
    identical = deployment.identical_pairs
    return [
        share
        for share in deployment.shares(adapters)
        if Pair(share.donor, share.recipient) not in identical
    ]


def compute_rounding_losses(
    config: RunConfig, observed: Observed, reporter: Reporter
) -> RoundingLosses:
    """Compute the loss of each stage and head at each precision that the config allows."""
    precisions = config.search.precision
    if not precisions:
        return {}
    reporter.step(f"Loss of storing each stage and head in {', '.join(precisions)}")
    owners = len([*weight_owners(observed.deployment.facts)])
    with reporter.progress("roundings", owners * len(precisions)) as progress:
        return rounding_losses(observed, precisions, progress)


def build_problem(
    config: RunConfig,
    deployment: Deployment,
    similarity: Mapping[Share, float],
    losses: RoundingLosses,
    champion: SharePlan | None = None,
) -> Problem:
    """Return the search problem: the shares above `search.floor`, the limits, the objectives.

    Its precision profiles include that of the champion.
    """
    facts, precisions = deployment.facts, config.search.precision
    profiles = precision_profiles(facts, losses, precisions)
    return Problem(
        facts=facts,
        quality_by_share={
            s: value for s, value in similarity.items() if value > config.search.floor
        },
        limits=config.limits(CostModel(facts).unmerged_bytes),
        costs=tuple(config.search.objectives),
        profiles=with_profile_of(champion, profiles, facts) if champion else profiles,
        rounding_losses=losses,
        rates=config.rates(),
    )
