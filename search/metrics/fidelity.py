"""The metric that tries each share alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from search.data.frames import Sampling, Subset, batches
from search.metrics.base import Metric
from search.metrics.fidelity_cache import Agreement, means
from search.statistics.observed import FramePart, Observed
from search.utils.progress import Progress, silent
from spaces.plan import Share, SharePlan
from spaces.plan_set import OutputKey, PlanSet

FRAMES = 64
FIRST = 16
BATCH = 16
HOPELESS = 0.05
"""A share that explains no more than this, or agrees no more on the first frames, is worth 0."""
NOTES_VERSION = 1
"""Part of the names of noted agreements: bump it when something else is measured."""


class PairFidelity(Metric):
    """How much of the recipient's answer a share keeps when it is the only one in place.

    Frames that came in parts are measured part by part, each with the maps fitted on the first
    part and on itself. So its agreements stay what they are when others come or go, and are
    noted: only what is new is measured. The notes change no number.
    """

    name = "fidelity"
    label = "fidelity of the share alone"

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        if not observed.parts:
            return fidelity_alone(observed, shares, progress)
        notes = [_noted(part, shares) for part in observed.parts]
        fresh = [not path.is_file() for path in notes]
        if not any(fresh):
            progress(len(shares))
        heard = _in_turns(progress, sum(fresh))
        for part, path in zip(observed.parts, notes, strict=True):
            if not path.is_file():
                agreement_alone(_alone(part, observed), shares, heard).save(path)
        return means([Agreement.load(path, shares) for path in notes], shares)


def fidelity_alone(
    observed: Observed, shares: Sequence[Share], progress: Progress = silent
) -> dict[Share, float]:
    """Each share tried alone: mean agreement of its recipient's answers with the original's."""
    return means([agreement_alone(observed, shares, progress)], shares)


def agreement_alone(
    observed: Observed, shares: Sequence[Share], progress: Progress = silent
) -> Agreement:
    """Each share tried alone on up to `FRAMES` unlabelled frames that the maps have not seen.

    All shares in one pass that computes each distinct representation once. Hopeless shares do
    not run to the end.
    """
    sums = dict.fromkeys(shares, 0.0)
    hopeful = [share for share in shares if observed.statistics.explained(share) > HOPELESS]
    few = Sampling(FRAMES).indices(len(observed.held_out))
    glance = few[:: len(few) // FIRST or 1]
    pace = _Pace(progress, len(shares), len(few))
    pace.left(hopeful, 0)
    first = _agreed(observed, hopeful, glance, lambda seen: pace.left(hopeful, seen))
    better = [share for share in hopeful if first[share] > HOPELESS * len(glance)]
    rest = _agreed(
        observed,
        better,
        [i for i in few if i not in glance],
        lambda seen: pace.left(better, len(glance) + seen),
    )
    pace.left([], len(few))
    return Agreement(len(few), sums | {share: first[share] + rest[share] for share in better})


def _alone(part: FramePart, observed: Observed) -> Observed:
    """The part as if its frames, beside those of the first, were all there are."""
    statistics, frames = part.statistics(), part.held_out.frames
    return replace(
        observed, statistics=statistics, frames=frames, held_out=part.held_out, parts=()
    )


def _noted(part: FramePart, shares: Sequence[Share]) -> Path:
    """Where the part's agreements of just these shares are, or will be."""
    text = " ".join([str(NOTES_VERSION), *map(str, shares)])
    return part.cache_folder / f"agreement-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _in_turns(progress: Progress, turns: int) -> Progress:
    """Hears of the same shares in every turn, and tells of each once."""
    heard = told = 0

    def hear(done: int) -> None:
        nonlocal heard, told
        heard += done
        progress(heard // turns - told)
        told = heard // turns

    return hear


class _Pace:
    """Shares that run side by side are told of as if they were done one by one, so that the time
    left can be foretold from the first frames on."""

    def __init__(self, progress: Progress, shares: int, frames: int) -> None:
        self._progress = progress
        self._shares = shares
        self._frames = max(1, frames)
        self._told = 0

    def left(self, running: Sequence[Share], seen: int) -> None:
        """All but the running shares are done; of those, so many frames."""
        done = self._shares - math.ceil(len(running) * (1 - seen / self._frames))
        self._progress(done - self._told)
        self._told = done


def _agreed(
    observed: Observed, shares: Sequence[Share], held_out: Sequence[int], progress: Progress
) -> dict[Share, float]:
    """Agreement of each share's recipient with itself unmerged, summed over held-out frames.

    `progress` hears how many frames all of them have seen so far.

    Source: `spaces.stages.StagedModel.agreement`.
    """
    if not held_out:
        return dict.fromkeys(shares, 0.0)
    models = observed.deployment.fused_models
    plans = [SharePlan((share,)) for share in shares]
    together = PlanSet(
        models, observed.deployment.facts, [SharePlan(), *plans], observed.maps_for(plans)
    )
    baseline, *merged = together.outputs
    sums: dict[OutputKey, float] = dict.fromkeys(together.distinct, 0.0)
    frames = Subset(observed.held_out, tuple(held_out))
    for indices, pictures in batches(frames, BATCH):
        inputs = {name: models[name].prepare_frames(pictures) for name in together.inputs_read}
        originals = {}
        for output, answer in together.probabilities(inputs):
            name = output[0]
            if output == baseline[name]:
                originals[name] = answer
            sums[output] += float(models[name].agreement(answer, originals[name]).sum())
        progress(indices.stop)
    recipients = [share.recipient.model for share in shares]
    found = [sums[outputs[name]] for outputs, name in zip(merged, recipients, strict=True)]
    return dict(zip(shares, found, strict=True))
