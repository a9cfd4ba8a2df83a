"""The baseline metrics of Cao et al. 2024: costs of a share, without regard to similarity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod

from search.metrics.base import Metric, PerShareMetric
from search.statistics.observed import Observed
from search.utils.progress import Progress, silent
from spaces.cost import CostModel
from spaces.plan import Share, SharePlan


class _Costed(Metric):
    """The part of the cost of the recipient's model that the share does not save."""

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        costs = CostModel(observed.deployment.facts)
        alone = {name: CostModel({name: fact}) for name, fact in observed.deployment.facts.items()}
        values = {}
        for share in shares:
            own = self._cost(alone[share.recipient.model], SharePlan())
            saved = self._cost(costs, SharePlan()) - self._cost(costs, SharePlan((share,)))
            values[share] = 1 - max(0, saved) / own  # an adapter can cost more than is saved
            progress(1)
        return values

    @abstractmethod
    def _cost(self, costs: CostModel, plan: SharePlan) -> int: ...


class KeptBytes(_Costed):
    """1 - bytes saved / bytes of the recipient's model: best where the least is saved."""

    name = "bytes"
    label = "bytes not shared"

    def _cost(self, costs: CostModel, plan: SharePlan) -> int:
        return costs.bytes(plan)


class KeptMacs(_Costed):
    """1 - MACs saved / MACs of the recipient's model."""

    name = "macs"
    label = "MACs not shared"

    def _cost(self, costs: CostModel, plan: SharePlan) -> int:
        return costs.macs(plan)


class RepresentationSize(PerShareMetric):
    """Values in the recipient's representation, relative to the largest one of its model."""

    name = "size"
    label = "size of the representation"

    def _similarity(self, observed: Observed, share: Share) -> float:
        recipient = observed.deployment.facts[share.recipient.model]
        largest = max(prod(stage.shape) for stage in recipient.stages)
        return prod(recipient.stage(share.recipient.stage).shape) / largest
