"""The records that the steps of a run pass on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.config.run import RunConfig
from search.data.frames import FrameSet
from search.data.ground_truth import Truth
from search.evaluation.latency import Latency
from search.report.rejected import ShortlistedPlan
from search.results.alternative import AlternativeRecord
from search.results.refinement import RefinementRecord
from search.results.search_result import RankAgreement, VerifiedCandidates
from search.statistics.observed import Observed
from search.study.objectives import EvaluatedPlan, PlanEvaluator, PredictedPlan
from search.study.optimize import StudyResult
from spaces.deployment import Deployment
from spaces.plan import Share, SharePlan


@dataclass(frozen=True)
class PriorKnowledge:
    """The champion and the models, as far as the caller has them before the search."""

    champion: SharePlan | None = None
    """The plan in service: it is evaluated first and, if feasible, is always verified."""
    deployment: Deployment | None = None
    """The config's models, if they are loaded already."""


NO_PRIOR_KNOWLEDGE = PriorKnowledge()


@dataclass(frozen=True)
class RunInputs:
    """The config of a run with its models, frames and labels opened."""

    config: RunConfig
    deployment: Deployment
    frames: FrameSet
    """The unlabelled frames."""
    truth: Mapping[str, Truth]
    """Ground truth by model; models without labels are missing."""


@dataclass(frozen=True)
class FrontSearch:
    """The search space, and the outcome of exploring it."""

    observed: Observed
    similarity: Mapping[Share, float]
    """Of every legal share."""
    evaluator: PlanEvaluator
    latency: Latency
    smallest: PredictedPlan
    """The smallest plan that the search knows."""
    explored: StudyResult
    champion: EvaluatedPlan | None
    """The plan in service with its predicted value; None if there is none or if it is outside the
    search space or the limits."""


@dataclass(frozen=True)
class FrontVerification:
    """The measurements of the verification stages."""

    verified: VerifiedCandidates
    rank_agreement: RankAgreement
    shortlist: tuple[ShortlistedPlan, ...]
    """Every plan whose fidelity was measured."""
    latency_ms: dict[str, float]
    """Milliseconds per frame of the unmerged models and of each candidate."""
    refinements: list[RefinementRecord]
    """What refining the maps of each candidate gained; empty if none were refined."""
    alternatives: list[AlternativeRecord]
    """What the unmerged models keep with all weights in a lower precision."""
