"""Candidates: plans measured on ground truth, and the table that tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from search.data.ground_truth import Truth
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import (
    BASELINE,
    EvaluationSetup,
    kept_by_model,
    quality_kept,
    steps_to_verify,
    tallies,
)
from search.evaluation.per_frame import FrameScores, Tallies, scores_of
from search.results.search_result import CandidateRecord, PlanRecord, Verified
from search.utils.reporter import Reporter
from spaces.plan import SharePlan


def verify_plans(
    bench: EvaluationSetup,
    plans: Sequence[PlanRecord],
    faithful: Sequence[Mapping[str, float | None]],
    truth: Mapping[str, Truth],
    reporter: Reporter,
) -> Verified:
    """Measure plans, and the unmerged models, on ground truth.

    `faithful` is each plan's fidelity by model. Without ground truth nothing is measured, and the
    candidates have no accuracy.
    """
    compared = [BASELINE, *(SharePlan.from_dict(record.plan) for record in plans)]
    measured: list[dict[str, FrameScores]] = [{} for _ in compared]
    if truth:
        reporter.step(f"Ground truth of {len(plans)} candidates and the unmerged models")
        with reporter.progress("steps", steps_to_verify(len(compared), truth)) as progress:
            measured = tallies(bench, compared, truth, progress)
    unmerged, *merged = measured
    resampling = Resampling(truth)
    candidates = []
    with reporter.progress("intervals", len(plans)) as progress:
        for record, agreed, found in zip(plans, faithful, merged, strict=True):
            candidates.append(_candidate(record, agreed, found, unmerged, resampling))
            progress(1)
    return Verified(scores_of(unmerged), resampling.intervals(unmerged), candidates)


def _candidate(
    record: PlanRecord,
    agreed: Mapping[str, float | None],
    merged: Tallies,
    unmerged: Tallies,
    resampling: Resampling,
) -> CandidateRecord:
    scores, baseline = scores_of(merged), scores_of(unmerged)
    kept = kept_by_model(scores, baseline, agreed)
    return CandidateRecord(
        **_as_planned(record),
        fidelity=dict(agreed),
        accuracy=scores,
        kept=kept,
        quality_kept=quality_kept(scores, baseline, agreed),
        intervals=resampling.intervals(merged),
        differences=resampling.differences(merged, unmerged),
        quality_interval=resampling.quality(kept, merged, unmerged),
    )


def _as_planned(record: PlanRecord) -> dict[str, Any]:
    """What was known of a plan before it was verified; it may have been verified before."""
    return {field.name: getattr(record, field.name) for field in fields(PlanRecord)}
