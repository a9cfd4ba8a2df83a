"""The metric that measures the fidelity of each share as the only one in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from search.data.frames import Sampling, Subset, batch_ranges
from search.data.inputs.input_batches import model_batches
from search.execution.jobs import FrameShard
from search.metrics.base import Metric
from search.metrics.fidelity_cache import Agreement, mean_agreements
from search.statistics.observed import FramePart, Observed
from search.utils.files import short_hash
from search.utils.progress import Progress, silent
from spaces.deployment import Deployment
from spaces.merged import LinearMaps
from spaces.node import Output
from spaces.plan import Share, SharePlan
from spaces.plan_set import PlanSet
from spaces.stages import StagedModel

MAX_FRAMES = 64
"""Held-out frames that a share is measured on, at most."""
SCREENING_FRAMES = 16
"""Frames, among these, that every share is measured on first."""
FIDELITY_BATCH = 16
"""Frames that run through the models at a time."""
HOPELESS = 0.05
"""Largest explained variance, or agreement on the screening frames, of a share that is dropped."""
AGREEMENT_VERSION = 1
"""Part of the names of cached agreements: bump it when the measurement changes."""


class PairFidelity(Metric):
    """How much of the recipient's answer a share keeps when it is the only one in place.

    Each part of the frames is measured on its own, with maps that are fitted on the first part
    and on this one. So its agreements do not depend on the other parts and are cached: only new
    parts are measured. The cache changes no value.
    """

    name = "fidelity"
    label = "fidelity of the share alone"

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        if not observed.parts:
            return fidelity_alone(observed, shares, progress)
        paths = [agreement_path(part.cache_folder, shares) for part in observed.parts]
        unmeasured = sum(not path.is_file() for path in paths)
        if not unmeasured:
            progress(len(shares))
        part_progress = split_progress(progress, unmeasured)
        for part, path in zip(observed.parts, paths, strict=True):
            if not path.is_file():
                agreement_in_part(part, observed, shares, part_progress).save(path)
        return mean_agreements([Agreement.load(path, shares) for path in paths], shares)


def fidelity_alone(
    observed: Observed, shares: Sequence[Share], progress: Progress = silent
) -> dict[Share, float]:
    """Return the mean agreement of each recipient with itself unmerged, one share in place."""
    return mean_agreements([agreement_alone(observed, shares, progress)], shares)


def agreement_alone(
    observed: Observed, shares: Sequence[Share], progress: Progress = silent
) -> Agreement:
    """Return the agreement of each share as the only one in place.

    It is measured on up to `MAX_FRAMES` held-out frames. All shares run in one pass, which
    computes each distinct representation once. Hopeless shares count as 0 and are dropped after
    the screening frames, or before them.
    """
    observed = observed.keeping_maps()
    sums = dict.fromkeys(shares, 0.0)
    hopeful = [share for share in shares if observed.statistics.explained(share) > HOPELESS]
    sampled = Sampling(MAX_FRAMES).indices(len(observed.held_out))
    screening = sampled[:: len(sampled) // SCREENING_FRAMES or 1]
    shares_done = _ShareProgress(progress, len(shares), len(sampled))
    shares_done.update(hopeful, 0)
    first = agreement_sums(
        observed, hopeful, screening, lambda frames: shares_done.update(hopeful, frames)
    )
    better = [share for share in hopeful if first[share] > HOPELESS * len(screening)]
    rest = agreement_sums(
        observed,
        better,
        [i for i in sampled if i not in screening],
        lambda frames: shares_done.update(better, len(screening) + frames),
    )
    shares_done.update([], len(sampled))
    return Agreement(len(sampled), sums | {share: first[share] + rest[share] for share in better})


def agreement_in_part(
    part: FramePart, observed: Observed, shares: Sequence[Share], progress: Progress = silent
) -> Agreement:
    """Return `agreement_alone` on one part of the frames.

    The agreement of a share does not depend on the other shares.
    """
    return agreement_alone(_only_part(part, observed), shares, progress)


def _only_part(part: FramePart, observed: Observed) -> Observed:
    """Return the observation of one part: its own held-out frames, its own statistics."""
    statistics, frames = part.statistics(), part.held_out.frames
    return replace(
        observed, statistics=statistics, frames=frames, held_out=part.held_out, parts=()
    )


def agreement_path(cache_folder: Path, shares: Sequence[Share]) -> Path:
    """Return the file for a part's agreements of exactly these shares."""
    text = " ".join([str(AGREEMENT_VERSION), *map(str, shares)])
    return cache_folder / f"agreement-{short_hash(text)}.json"


def split_progress(progress: Progress, parts: int) -> Progress:
    """Return the progress of one of several parts, each of which counts all shares once."""
    finished = reported = 0

    def report(done: int) -> None:
        nonlocal finished, reported
        finished += done
        progress(finished // parts - reported)
        reported = finished // parts

    return report


class _ShareProgress:
    """Progress of shares that run side by side.

    It counts their frames as if the shares finished one by one, so that the time left can be
    estimated from the first batch on.
    """

    def __init__(self, progress: Progress, shares: int, frames: int) -> None:
        self._progress = progress
        self._shares = shares
        self._frames = max(1, frames)
        self._reported = 0

    def update(self, running: Sequence[Share], frames: int) -> None:
        """Report that the running shares have finished `frames` frames, and the others all."""
        finished = self._shares - math.ceil(len(running) * (1 - frames / self._frames))
        self._progress(finished - self._reported)
        self._reported = finished


def agreement_sums(
    observed: Observed, shares: Sequence[Share], held_out: Sequence[int], progress: Progress
) -> dict[Share, float]:
    """Return each recipient's agreement with itself unmerged, summed over held-out frames.

    `held_out` are indices into the held-out frames. `progress` is called with the number of
    frames finished so far, not with that since the last call.
    """
    sums = dict.fromkeys(shares, 0.0)
    if not held_out or not shares:
        return sums
    finished = 0.0

    def report(part: float, frames: int) -> None:
        nonlocal finished
        finished += part * frames
        progress(round(finished))

    frames = Subset(observed.held_out, tuple(held_out))
    for some, maps in observed.with_maps(shares):
        job = AgreementJob(tuple(some), maps)
        part = len(some) / len(shares)
        for measured in observed.engine.run(job, frames, partial(report, part)):
            for share, agreement in measured.items():
                sums[share] += agreement
    return sums


@dataclass(frozen=True)
class AgreementJob:
    """The agreement of shares, each as the only one in place, summed over frames.

    Source: `spaces.stages.StagedModel.agreement`.
    """

    shares: tuple[Share, ...]
    maps: LinearMaps

    @property
    def shard_size(self) -> int:
        return FIDELITY_BATCH

    def pieces(self) -> list[AgreementJob]:
        """Return a job for the shares between every two models, which compute most in common."""
        between: dict[tuple[str, str], list[Share]] = {}
        for share in self.shares:
            between.setdefault((share.donor.model, share.recipient.model), []).append(share)
        return [
            AgreementJob(tuple(shares), {s: self.maps[s] for s in shares if s in self.maps})
            for shares in between.values()
        ]

    def run(
        self, deployment: Deployment, shard: FrameShard, progress: Progress
    ) -> dict[Share, float]:
        models = deployment.fused_models
        plans = [SharePlan((share,)) for share in self.shares]
        plan_set = PlanSet(models, deployment.facts, [SharePlan(), *plans], self.maps)
        plan_set = plan_set.restrict_to({share.recipient.model for share in self.shares})
        _, *merged = plan_set.outputs
        sums: dict[Output, float] = dict.fromkeys(plan_set.distinct, 0.0)
        ranges = batch_ranges(len(shard.frames), FIDELITY_BATCH)
        for batch in model_batches(shard.frames, ranges, models, plan_set.inputs_read):
            compared = plan_set.compare_with_first(batch.inputs, StagedModel.agreement)
            for output, agreement in compared:
                sums[output] += float(agreement.sum())
            progress(len(batch))
        return {
            share: sums[outputs[share.recipient.model]]
            for share, outputs in zip(self.shares, merged, strict=True)
        }
