"""Log the runs of a split: a parent, a child for each verified point and each way to compare."""

from __future__ import annotations

from pathlib import Path

from search.results.split_result import SplitBaselineRecord, SplitPointRecord, SplitResult
from search.tracking.payloads import split
from search.tracking.run_writer import NOTE_TAG, PARENT_TAG, PLAN_TAG, ResultRuns

SPLIT_TAG, POINT_TAG = "merge_search.split", "merge_search.point"
"""Ends of the split in words, and hash of the point."""
LONGEST_TAG = 1000


def log_split(writer: ResultRuns, result: SplitResult, folder: Path) -> str:
    """Log all runs of a split and the files in its folder; return a summary in words."""
    parent = writer.start_parent("split", f"{result.name} split")
    writer.client.set_tag(parent, NOTE_TAG, split.split_note(result))
    writer.log_parameters(parent, split.split_parameters(result))
    writer.log_metrics(parent, split.split_metrics(result))
    writer.log_files(parent, folder)
    for point in result.points:
        _log_point(writer, parent, result, point)
    baselines = compared_baselines(result)
    for baseline in baselines:
        _log_baseline(writer, parent, baseline)
    writer.finish_parent(parent)
    return f"run {parent}: 1 parent, {len(result.points) + len(baselines)} children"


def compared_baselines(result: SplitResult) -> list[SplitBaselineRecord]:
    """Return the ways to answer that no other one of their kind beats in bytes and quality.

    MLflow's page of comparisons has a column for each run, so it gets those worth a column.
    """
    return [
        record
        for record in result.baselines
        if not any(_beats(other, record) for other in result.baselines)
    ]


def _beats(other: SplitBaselineRecord, record: SplitBaselineRecord) -> bool:
    if other.kind != record.kind or record.quality is None or other.quality is None:
        return False
    costs = (other.bytes, other.times.total_ms, -other.quality)
    own = (record.bytes, record.times.total_ms, -record.quality)
    no_worse = all(a <= b for a, b in zip(costs, own, strict=True))
    return no_worse and costs != own


def _log_point(
    writer: ResultRuns, parent: str, result: SplitResult, point: SplitPointRecord
) -> None:
    tags = {
        PARENT_TAG: parent,
        PLAN_TAG: point.plan,
        POINT_TAG: point.hash,
        SPLIT_TAG: point.label[:LONGEST_TAG],
        "merge_search.chosen": str(point.hash == result.chosen).lower(),
    }
    run = writer.start("split point", split.point_run_name(point), tags)
    writer.log_parameters(run, split.point_parameters(point))
    writer.log_metrics(run, split.point_metrics(point))
    writer.client.log_dict(run, point.split, "split.json")
    writer.finish(run)


def _log_baseline(writer: ResultRuns, parent: str, baseline: SplitBaselineRecord) -> None:
    tags = {PARENT_TAG: parent, SPLIT_TAG: baseline.name[:LONGEST_TAG]}
    run = writer.start(f"split {baseline.kind}", split.baseline_run_name(baseline), tags)
    writer.log_parameters(run, split.baseline_parameters(baseline))
    writer.log_metrics(run, split.way_metrics(baseline))
    writer.finish(run)
