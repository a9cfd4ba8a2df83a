"""Candidates: plans measured on ground truth, and the table that tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from search.utils.console import MEGABYTE, Reporter, percent, percents
from search.evaluation.confidence import Intervals, Resampling
from search.study.problem import Cost
from search.results.search_result import CandidateRecord, PlanRecord, verified_front
from search.report.score_text import interval_text, score_name, score_text
from search.evaluation.per_frame import Scores, Tallies, Tally, scores_of
from search.data.ground_truth import Truth
from search.study.objectives import UNITS
from search.evaluation.evaluate import (
    BASELINE,
    Bench,
    kept_by_model,
    quality_kept,
    steps_to_verify,
    tallies,
)
from spaces.plan import SharePlan

Cells = tuple[list[str], list[list[str]]]
"""A header, and rows."""


@dataclass(frozen=True)
class Verified:
    """What ground truth says of the unmerged models and of the candidates."""

    baseline: dict[str, Scores]
    """Per model with ground truth, the unmerged scores."""
    intervals: Intervals
    """[low, high] of each."""
    candidates: list[CandidateRecord]


def verify_plans(
    bench: Bench,
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
    measured: list[dict[str, Tally]] = [{} for _ in compared]
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


def tell(
    verified: Verified, unmerged_bytes: int, chosen: str | None, title: str, reporter: Reporter
) -> None:
    """The candidates as tables, by rising bytes; what each shares, and what that does.

    `chosen` is the hash of the one that gets a star.
    """
    known = replace(verified, candidates=sorted(verified.candidates, key=lambda c: c.bytes))
    title = f"{title} (* chosen, + on the verified front)"
    reporter.table(title, *_numbers(known, unmerged_bytes, chosen))
    reporter.say("")
    if known.baseline:
        reporter.table("95% intervals over the labelled frames", *_intervals(known))
        reporter.say("")
    for c in known.candidates:
        told = [str(share) for share in SharePlan.from_dict(c.plan).shares]
        if c.verdicts:
            against = ", ".join(f"{name} {verdict}" for name, verdict in c.verdicts.items())
            told.append(f"against unmerged: {against}")
        reporter.say(f"{c.hash}:  " + "\n               ".join(told))


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


def _numbers(verified: Verified, unmerged_bytes: int, chosen: str | None) -> Cells:
    baseline, candidates = verified.baseline, verified.candidates
    extra = beside_bytes(candidates)
    header = ["plan", "MB", "saved", "kept", "proxy", "fidelity"]
    header += [f"{name} {UNITS[name]}" for name in extra]
    header += [f"{name} {score_name(scores)}" for name, scores in baseline.items()]
    full = f"{unmerged_bytes / MEGABYTE:.2f}"
    rows = [
        ["unmerged", full, "0.0%", "100.0%", "1.000", "100.0%", *("" for _ in extra),
         *(score_text(scores) for scores in baseline.values())]
    ]  # fmt: skip
    front = verified_front(candidates)
    for c in candidates:
        mark = ("*" if c.hash == chosen else "") + ("+" if c.hash in front else "")
        rows.append(
            [f"{c.hash} {mark}", f"{c.bytes / MEGABYTE:.2f}", f"{c.saved_pct:.1f}%",
             percent(c.quality_kept), f"{c.proxy:.3f}", percent(c.mean_fidelity),
             *(f"{c.costs[name]:.2f}" for name in extra),
             *(score_text(c.accuracy[name]) for name in baseline)]
        )  # fmt: skip
    return header, rows


def _intervals(verified: Verified) -> Cells:
    baseline = verified.baseline
    header = [
        "plan",
        "kept",
        *(f"{name} {score_name(scores)}" for name, scores in baseline.items()),
    ]
    rows = [["unmerged", "", *map(interval_text, verified.intervals.values())]]
    for c in verified.candidates:
        kept = "" if c.quality_interval is None else percents(c.quality_interval)
        rows.append([c.hash, kept, *map(interval_text, c.intervals.values())])
    return header, rows


def beside_bytes(candidates: Sequence[CandidateRecord]) -> list[Cost]:
    """What else the search made small."""
    return [n for n in UNITS if n != "bytes" and any(n in c.costs for c in candidates)]
