"""The metrics that can guide a search: label-free numbers for shares, worked out before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from search.frames import Subset, batches
from search.observed import Observed
from spaces.inputs import prepare_batch
from spaces.plan import Share, SharePlan
from spaces.shares import Pair
from spaces.together import Output, PlanSet

Progress = Callable[[int], None]


def silent(done: int) -> None:
    """Progress that nobody watches."""


class Metric(ABC):
    """How well each share keeps its recipient going; 1 is best, 0 or less is worthless."""

    name: ClassVar[str]
    label: ClassVar[str]

    @abstractmethod
    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        """The number of every share; `progress` hears of each share done."""


class _Lookup(Metric):
    """A metric that is worked out share by share from the statistics alone."""

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        values = {}
        for share in shares:
            values[share] = self._similarity(observed, share)
            progress(1)
        return values

    @abstractmethod
    def _similarity(self, observed: Observed, share: Share) -> float: ...


class ImageCka(_Lookup):
    """Unbiased linear CKA with images as samples: the seed paper's S.

    Source: Kornblith et al. 2019; Nguyen et al. 2021.
    """

    name = "cka"
    label = "unbiased linear CKA over images"

    def _similarity(self, observed: Observed, share: Share) -> float:
        return observed.statistics.image_cka(Pair(share.donor, share.recipient))


class PositionCka(_Lookup):
    """Linear CKA with positions as samples."""

    name = "position_cka"
    label = "linear CKA over positions"

    def _similarity(self, observed: Observed, share: Share) -> float:
        return observed.statistics.position_cka(Pair(share.donor, share.recipient))


class ExplainedVariance(_Lookup):
    """Held-out R^2 of the share's adapter."""

    name = "r2"
    label = "held-out R² of the adapter"

    def _similarity(self, observed: Observed, share: Share) -> float:
        return observed.statistics.explained(share)


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


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (PairFidelity(), ExplainedVariance(), PositionCka(), ImageCka())
}


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
        inputs = {
            name: prepare_batch(pictures, models[name].input) for name in together.inputs_read
        }
        originals = {}
        for output, soft in together.soft_answers(inputs):
            name = output[0]
            if output == baseline[name]:
                originals[name] = soft
            sums[output] += float(models[name].agreement(soft, originals[name]).sum())
            progress(int(output != baseline[name]))
    return [sums[output] / len(few) for output in wanted]
