"""What one would do without merging: all weights of the unmerged models in fewer bytes."""

from __future__ import annotations

from collections.abc import Sequence

from search.results.alternative import AlternativeRecord
from search.results.search_result import CandidateRecord, PlanRecord
from search.study.precision.profiles import weight_owners
from spaces.cost import CostModel
from spaces.deployment import Deployment
from spaces.model_facts import facts_at
from spaces.plan import Precision, SharePlan

WITHOUT_MERGING: tuple[Precision, ...] = ("float16", "int8")


def plans_without_merging(deployment: Deployment) -> list[PlanRecord]:
    """Return the plans that share nothing and store all weights in one lower precision.

    They are no part of the search: their `proxy` is that of nothing shared.
    """
    precisions = [p for p in WITHOUT_MERGING if p != deployment.dtype]
    costs = CostModel(facts_at(deployment.models, deployment.facts, precisions))
    return [_record(deployment, precision, costs) for precision in precisions]


def alternatives_of(measured: Sequence[CandidateRecord]) -> list[AlternativeRecord]:
    """Return the measurements of `plans_without_merging`."""
    return [
        AlternativeRecord(
            precision=SharePlan.from_dict(record.plan).precisions[0][1],
            bytes=record.bytes,
            saved_pct=record.saved_pct,
            fidelity=record.mean_fidelity,
            quality_kept=record.quality_kept,
            quality_interval=record.quality_interval,
        )
        for record in measured
    ]


def _record(deployment: Deployment, precision: Precision, costs: CostModel) -> PlanRecord:
    owners = weight_owners(deployment.facts)
    plan = SharePlan(precisions=tuple((owner, precision) for owner in owners))
    size = costs.bytes(plan)
    return PlanRecord(
        hash=plan.hash,
        plan=plan.to_dict(),
        bytes=size,
        macs=costs.unmerged_macs,
        saved_pct=round(100 * (1 - size / costs.unmerged_bytes), 3),
        proxy=1.0,
        costs={},
    )
