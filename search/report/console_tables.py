"""Stages, plans, similarities and metric comparisons as tables on the console."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from search.evaluation.correlation import COEFFICIENTS, Correlation
from search.metrics.registry import METRICS
from search.report.similarity_matrix import Stages, model_pairs, similarity_matrix
from search.results.kept_quality import kept_interval_text, kept_text, no_baseline_text
from search.results.measured import describe_measurement
from search.results.metric_comparison import SHARE_GROUPS, MetricComparison
from search.results.precisions import StoredBytes, by_model, describe_stored, name_weights
from search.results.search_result import MAPS_REFINED, CandidateRecord, PlanRecord, Result
from search.utils.format import megabytes
from search.utils.records import BadRecord, read_record
from search.utils.reporter import Reporter
from spaces.errors import BadPlan
from spaces.model_facts import ModelFacts
from spaces.plan import Ref, Share, SharePlan

STAGE_HEADER = ("stage", "shape", "bytes", "MACs (M)", "tap")


def print_stages(facts: Mapping[str, ModelFacts], reporter: Reporter) -> None:
    """Print one table of stages per model."""
    for name, fact in facts.items():
        rows = [
            [stage.name, " x ".join(str(side) for side in stage.shape), f"{stage.bytes:,}",
             f"{stage.macs / 1e6:,.1f}", "tap" if stage.tap else ""]
            for stage in fact.stages
        ]  # fmt: skip
        rows.append(["head", "", f"{fact.head_bytes:,}", f"{fact.head_macs / 1e6:,.1f}", ""])
        reporter.details(f"{name} ({fact.task})", STAGE_HEADER, rows)


def print_plan(file: Path, reporter: Reporter) -> None:
    """Print a plan file, and its costs and verification if the result of its run is beside it.

    Raises:
        BadPlan: the file cannot be read or is not a plan, or the result is damaged.
    """
    plan = read_plan(file)
    count = len(plan.shares)
    reporter.say(f"plan {plan.hash}: {count} {'share' if count == 1 else 'shares'}")
    rows = [[str(s.recipient), str(s.donor), str(s.adapter)] for s in plan.shares]
    reporter.table("Shares", ["recipient takes its representation", "from donor", "adapter"], rows)
    if plan.refined:
        reporter.say(MAPS_REFINED)
    result = _find_result(file)
    record = None if result is None else _find_record(result, plan)
    _print_precisions(plan, record, reporter)
    if result is None or record is None:
        return
    reporter.say(
        f"holds {megabytes(record.bytes)}, {record.saved_pct:.1f}% less than unmerged; "
        f"{_macs_text(record, result)}; proxy {record.proxy:.3f}"
    )
    if isinstance(record, CandidateRecord):
        for name, scores in record.accuracy.items():
            values = ", ".join(f"{score} {value:.3f}" for score, value in scores.items())
            significance = record.significance_by_model[name]
            reporter.say(f"verified {name}: {values}; against unmerged {significance}")
        reporter.say(f"quality kept: {_kept_with_reason(record, result.at_chance)}")
    for measurement in result.measured:
        if measurement.plan == plan.hash:
            reporter.say(f"measured {describe_measurement(measurement)}")


def _macs_text(record: PlanRecord, result: Result) -> str:
    text = f"{record.macs / 1e6:,.0f} M multiply-accumulates per frame"
    if record.macs_per_second is None:
        return text
    per_second = f"{record.macs_per_second / 1e6:,.0f} M per second of camera time"
    return f"{text}, {per_second} at the rates {result.rates_text}"


def _print_precisions(plan: SharePlan, record: PlanRecord | None, reporter: Reporter) -> None:
    """Print the bytes of each precision if the record knows them; else what the plan lists."""
    stored: StoredBytes = {} if record is None else record.stored
    if not stored:
        text = describe_stored(plan, {})
        if text:
            reporter.say(text)
        return
    rows = [
        [precision, model, name_weights(own, plan, most=len(own)),
         f"{sum(owners[str(owner)] for owner in own):,}"]
        for precision, owners in stored.items()
        for model, own in by_model(map(Ref.parse, owners)).items()
    ]  # fmt: skip
    reporter.table("How the weights are stored", ["weights in", "model", "stages", "bytes"], rows)


def _kept_with_reason(record: CandidateRecord, at_chance: Collection[str]) -> str:
    """Return the quality kept with its interval, or a dash with the reason."""
    kept = kept_text(record.quality_kept, at_chance)
    if at_chance:
        return f"{kept} ({no_baseline_text(at_chance)})"
    interval = kept_interval_text(record.quality_interval, at_chance)
    return f"{kept} (95% interval {interval})" if interval else kept


def read_plan(file: Path) -> SharePlan:
    """Read a plan file.

    Raises:
        BadPlan: the file cannot be read or is not a plan.
    """
    try:
        return SharePlan.from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadPlan(f"plan {file}: cannot be read ({error})") from error
    except BadPlan as error:
        raise BadPlan(f"plan {file}: {error}") from error


def _find_result(file: Path) -> Result | None:
    """Return the result.json above the folder of a plan file, if there is one."""
    path = file.resolve().parent.parent / "result.json"
    if not path.is_file():
        return None
    try:
        return read_record(Result, path)
    except BadRecord as error:
        raise BadPlan(f"{error}: this is not the result of a run") from error


def _find_record(result: Result, plan: SharePlan) -> PlanRecord | None:
    records: list[PlanRecord] = [*result.candidates, *result.front]
    return next((record for record in records if record.hash == plan.hash), None)


def print_similarity(
    similarity: Mapping[Share, float], stages: Stages, metric: str, reporter: Reporter
) -> None:
    """Print one matrix per ordered pair of models."""
    for donor, recipient in model_pairs(stages):
        rows = similarity_matrix(similarity, stages, donor, recipient)
        cells = [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in rows]
        reporter.table(
            f"{METRICS[metric].label}: {donor} (down) -> {recipient} (across)",
            ["", *(stage.removeprefix("blocks.") for stage in stages[recipient])],
            [[name, *row] for name, row in zip(stages[donor], cells, strict=True)],
        )


def print_metric_comparison(comparison: MetricComparison, reporter: Reporter) -> None:
    """Print one table per coefficient, with the metrics in the order of the deciding part."""
    reporting, deciding, shares = comparison.reporting, comparison.deciding, comparison.shares
    for coefficient in COEFFICIENTS:
        rows = []
        for metric in deciding.ranking:
            mark = " *" if metric == comparison.winner else ""
            cells = [
                correlation_text(reporting.metrics[metric][group][coefficient])
                for group in SHARE_GROUPS
            ]
            rows.append([metric + mark, *cells, f"{comparison.metric_seconds[metric]:.2f}"])
        title = f"{coefficient.capitalize()} correlation with accuracy kept, and its 95% interval"
        reporter.table(title, ["metric", *SHARE_GROUPS, "seconds"], rows)
    reporter.say(
        f"{shares['all']} shares ({shares['same']} same, {shares['cross']} cross stage), measured "
        f"on labelled frames: {_frame_counts(reporting.frames)}"
    )
    reporter.say(
        "seconds: for all shares, given the statistics, which took "
        f"{comparison.seconds['statistics']:.1f} s, or were read from the cache"
    )
    for part, table in (("deciding", deciding), ("reporting", reporting)):
        for name, reason in table.left_out.items():
            reporter.say(f"{name} is left out on the {part} frames: {reason}")
    if comparison.winner is None:
        reporter.warn("no winner: no metric has a correlation on the deciding frames")
        return
    reporter.say(
        f"* wins: the greatest |r| over all shares on other labelled frames "
        f"({_frame_counts(deciding.frames)}), "
        f"r {deciding.pearson(comparison.winner).value:z.2f} there"
    )


def correlation_text(correlation: Correlation) -> str:
    """Format a coefficient with its interval; a dash if it is not defined."""
    if correlation.value is None:
        return "-"
    return f"{correlation.value:z.2f} {correlation.low:z.2f}…{correlation.high:z.2f}"


def _frame_counts(frames: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in frames.items())
