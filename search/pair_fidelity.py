"""The metric that tries each share alone."""

from __future__ import annotations

from collections.abc import Sequence

from search.frames import Subset, batches
from search.metric import Metric, Progress, silent
from search.observed import Observed
from spaces.plan import Share, SharePlan
from spaces.together import Output, PlanSet


class PairFidelity(Metric):
    """How much of the recipient's answer a share keeps when it is the only one in place.

    Each share is tried alone on `FRAMES` unlabelled frames that the maps have not seen, all of
    them in one pass. The agreement is a soft one (`StagedModel.agreement`), so that few frames
    say much. Shares that explain next to nothing are worth 0 and are not run.
    """

    name = "fidelity"
    label = "fidelity of the share alone"

    FRAMES = 24
    HOPELESS = 0.05

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        explained = {share: observed.statistics.explained(share) for share in shares}
        tried = [share for share in shares if explained[share] > self.HOPELESS]
        progress(len(shares) - len(tried))
        plans = [SharePlan((share,)) for share in tried]
        agreed = _agreements(observed, plans, progress)
        return dict.fromkeys(shares, 0.0) | dict(zip(tried, agreed, strict=True))


def _agreements(observed: Observed, plans: Sequence[SharePlan], progress: Progress) -> list[float]:
    """For each single-share plan, the recipient's mean soft agreement with itself unmerged."""
    models = observed.deployment.models
    maps = observed.maps_for(plans)
    together = PlanSet(models, observed.deployment.facts, [SharePlan(), *plans], maps)
    baseline, *merged = together.outputs
    wanted = [
        outputs[plan.shares[0].recipient.model]
        for outputs, plan in zip(merged, plans, strict=True)
    ]
    few = Subset(observed.unseen, tuple(range(min(PairFidelity.FRAMES, len(observed.unseen)))))
    sums: dict[Output, float] = dict.fromkeys(together.distinct, 0.0)
    for _, pictures in batches(few, len(few)):
        inputs = {name: models[name].prepared(pictures) for name in together.inputs_read}
        originals = {}
        for output, soft in together.soft_answers(inputs):
            name = output[0]
            if output == baseline[name]:
                originals[name] = soft
            sums[output] += float(models[name].agreement(soft, originals[name]).sum())
            progress(int(output != baseline[name]))
    return [sums[output] / len(few) for output in wanted]
