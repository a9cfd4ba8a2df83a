"""The metric that tries each share alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.frames import Sampling, Subset, batches
from search.metric import Metric, Progress, silent
from search.observed import Observed
from spaces.plan import Share, SharePlan
from spaces.together import Output, PlanSet

FRAMES = 64
FIRST = 16
BATCH = 16
HOPELESS = 0.05
"""A share that explains no more than this, or agrees no more on the first frames, is worth 0."""


class PairFidelity(Metric):
    """How much of the recipient's answer a share keeps when it is the only one in place."""

    name = "fidelity"
    label = "fidelity of the share alone"

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        return fidelity_alone(observed, shares, progress)


def fidelity_alone(
    observed: Observed, shares: Sequence[Share], progress: Progress = silent
) -> dict[Share, float]:
    """Each share tried alone: mean agreement of its recipient's answers with the original's.

    On up to `FRAMES` unlabelled frames that the maps have not seen, all shares in one pass that
    computes each distinct representation once. Hopeless shares do not run to the end.
    """
    values = dict.fromkeys(shares, 0.0)
    hopeful = [share for share in shares if observed.statistics.explained(share) > HOPELESS]
    few = Sampling(FRAMES).indices(len(observed.unseen))
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
    return values | {share: (first[share] + rest[share]) / len(few) for share in better}


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
    observed: Observed, shares: Sequence[Share], unseen: Sequence[int], progress: Progress
) -> dict[Share, float]:
    """Agreement of each share's recipient with itself unmerged, summed over unseen frames.

    `progress` hears how many frames all of them have seen so far.

    Source: `spaces.stages.StagedModel.agreement`.
    """
    if not unseen:
        return dict.fromkeys(shares, 0.0)
    models = observed.deployment.running
    plans = [SharePlan((share,)) for share in shares]
    together = PlanSet(
        models, observed.deployment.facts, [SharePlan(), *plans], observed.maps_for(plans)
    )
    baseline, *merged = together.outputs
    sums: dict[Output, float] = dict.fromkeys(together.distinct, 0.0)
    frames = Subset(observed.unseen, tuple(unseen))
    for indices, pictures in batches(frames, BATCH):
        inputs = {name: models[name].prepared(pictures) for name in together.inputs_read}
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
