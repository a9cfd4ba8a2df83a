"""Plans measured on ground truth, as candidate records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from search.data.ground_truth import Truth, summarise_truth
from search.evaluation.chance import scores_at_chance
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    quality_kept,
    quality_kept_by_model,
    score_frames,
    verification_steps,
)
from search.evaluation.per_frame import FrameScores, FrameScoresByModel, scores_by_model
from search.results.search_result import CandidateRecord, PlanRecord, VerifiedCandidates
from search.utils.reporter import Reporter
from spaces.plan import SharePlan


def verify_plans(
    setup: EvaluationSetup,
    plans: Sequence[PlanRecord],
    fidelities: Sequence[Mapping[str, float | None]],
    truth: Mapping[str, Truth],
    reporter: Reporter,
) -> VerifiedCandidates:
    """Measure plans and the unmerged models on ground truth.

    `fidelities` holds each plan's fidelity by model. Without ground truth nothing is measured, and
    the candidates have no accuracy.
    """
    compared = [UNMERGED_PLAN, *(SharePlan.from_dict(record.plan) for record in plans)]
    scores_by_plan: list[dict[str, FrameScores]] = [{} for _ in compared]
    if truth:
        reporter.step(f"Ground truth of {len(plans)} plans and the unmerged models")
        with reporter.progress("steps", verification_steps(len(compared), truth)) as progress:
            scores_by_plan = score_frames(setup, compared, truth, progress)
    unmerged, *merged = scores_by_plan
    at_chance = scores_at_chance(scores_by_model(unmerged), truth)
    for warning in at_chance.values():
        reporter.warn(warning)
    resampling = Resampling(truth)
    candidates = []
    with reporter.progress("intervals", len(plans)) as progress:
        for record, by_model, frame_scores in zip(plans, fidelities, merged, strict=True):
            candidates.append(
                _candidate_record(record, by_model, frame_scores, unmerged, resampling)
            )
            progress(1)
    return VerifiedCandidates(
        scores_by_model(unmerged), resampling.intervals(unmerged), candidates, at_chance
    )


def truth_records(
    truth: Mapping[str, Truth], verified: VerifiedCandidates
) -> dict[str, dict[str, Any]]:
    """Return the records of the ground truth for results, by model."""
    records = {name: summarise_truth(labelled) for name, labelled in truth.items()}
    for name, warning in verified.at_chance.items():
        records[name]["at_chance"] = warning
    return records


def _candidate_record(
    plan: PlanRecord,
    fidelity_by_model: Mapping[str, float | None],
    merged: FrameScoresByModel,
    unmerged: FrameScoresByModel,
    resampling: Resampling,
) -> CandidateRecord:
    scores, baseline = scores_by_model(merged), scores_by_model(unmerged)
    quality = quality_kept_by_model(scores, baseline, fidelity_by_model)
    return CandidateRecord(
        **_plan_fields(plan),
        fidelity=dict(fidelity_by_model),
        accuracy=scores,
        kept=quality,
        quality_kept=quality_kept(scores, baseline, fidelity_by_model),
        intervals=resampling.intervals(merged),
        differences=resampling.differences(merged, unmerged),
        quality_interval=resampling.quality_interval(quality, merged, unmerged),
    )


def _plan_fields(plan: PlanRecord) -> dict[str, Any]:
    """Return the fields of a plan without those of an earlier verification."""
    return {field.name: getattr(plan, field.name) for field in fields(PlanRecord)}
