"""A whole split: its document, its table, what it is compared with, and one model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import (
    SPLIT_SECTION,
    FinishedRun,
    capture_reporter,
    run_config,
    with_changes,
    write_config,
)

from search.config.base import BadConfig
from search.config.loading import load_config
from search.pipelines.run import run_without_logging
from search.pipelines.split.inputs import NoSplitSection
from search.pipelines.split.run import split_without_logging
from search.pipelines.split.verify import choose_point
from search.results.split_result import SplitResult
from search.utils.records import read_record
from spaces.plan import SharePlan
from spaces.split.split import Split


def test_the_document_holds_the_result(tiny_split: FinishedRun) -> None:
    folder = tiny_split.out / "split"
    assert read_record(SplitResult, folder / "split.json") == tiny_split.result
    assert (folder / "split.html").stat().st_size > 10_000


def test_the_unmerged_models_and_the_plans_of_the_run_are_split(
    tiny_split: FinishedRun, tiny_run: FinishedRun
) -> None:
    result = tiny_split.result
    unmerged, *others = result.plans.values()
    assert SharePlan.from_dict(unmerged) == SharePlan()
    assert [SharePlan.from_dict(plan).hash for plan in others] == [tiny_run.result.chosen]
    assert {point.plan for point in result.front} <= set(result.plans)
    assert result.study["trials"] == SPLIT_SECTION["trials"]


def test_points_are_measured_within_the_conditions(tiny_split: FinishedRun) -> None:
    result = tiny_split.result
    assert len(result.points) == 2 and result.points[0].bytes <= result.points[1].bytes
    for point in result.points:
        times = point.times
        parts = (times.device_ms, times.encode_ms, times.link_ms, times.decode_ms, times.server_ms)
        assert times.total_ms == pytest.approx(sum(parts)) and min(parts) > 0
        assert times.link_ms == pytest.approx(point.bytes * 8 / 0.5e6 * 1e3 + 20)
        assert point.device_macs <= 0.95 * result.unsplit.macs
        assert point.device_memory > point.device_bytes > point.codec_bytes > 0
        assert point.feasible == (times.total_ms <= 1000)
        assert point.predicted_bytes == pytest.approx(point.bytes, rel=0.35, abs=20)
        assert {*point.fidelity} == {"a", "b"} and set(point.accuracy) == {"a"}
        assert Split.from_dict(point.split).plan.hash != "" and point.bytes <= point.bytes_p95


def test_the_chosen_point_sends_least_of_those_that_keep_enough(tiny_split: FinishedRun) -> None:
    points = tiny_split.result.points
    assert choose_point(points, 0.97).hash == tiny_split.result.chosen  # type: ignore[union-attr]
    kept = sorted(round(point.quality, 3) for point in points if point.quality is not None)
    for keep in (kept[0], kept[-1]):
        enough = [p for p in points if p.quality is not None and round(p.quality, 3) >= keep]
        fewest = min(point.bytes for point in enough)
        assert choose_point(points, keep).bytes == fewest  # type: ignore[union-attr]
    best = choose_point(points, 2.0)  # more than any point keeps
    assert best and round(best.quality or 0, 3) == kept[-1]
    assert choose_point([], 0.97) is None


def test_other_ways_to_answer_are_measured_on_the_same_frames(tiny_split: FinishedRun) -> None:
    result = tiny_split.result
    by_kind: dict[str, list[Any]] = {}
    for way in result.baselines:
        by_kind.setdefault(way.kind, []).append(way)
    assert {*by_kind} == {"picture", "plain", "device", "server"}
    whole = by_kind["device"][0]
    assert whole.accuracy == result.unsplit.accuracy and whole.bytes == 0
    assert whole.device_bytes == result.unsplit.bytes and whole.device_macs == result.unsplit.macs
    assert [way.name for way in by_kind["picture"]] == ["JPEG q50"]
    assert {way.split for way in by_kind["plain"]} <= {point.hash for point in result.points}
    assert by_kind["server"][0].bytes > by_kind["picture"][0].bytes


def test_the_console_says_what_is_better(tiny_split: FinishedRun) -> None:
    output = tiny_split.output
    assert "verified plans of the run in tiny are split, too" in output
    for point in tiny_split.result.points:
        assert point.hash in output
    assert "whole networks on the device, int8" in output and "JPEG q50" in output
    assert "Everything on the device" in output


def test_one_model_is_split_and_has_nothing_to_share(data: dict[str, Any], tmp_path: Path) -> None:
    one = with_changes(
        data,
        {"models": {"a": data["models"]["a"]}, "split": SPLIT_SECTION | {"trials": 8}},
    )
    del one["budget"], one["truth"]
    finished = run_config(write_config(tmp_path, one), work=split_without_logging)
    assert finished.result.study["splits"] < 8 and len(finished.result.models) == 1
    assert finished.result.chosen_point.mean_fidelity is not None
    with pytest.raises(BadConfig, match="nothing to share with one"):
        run_without_logging(finished.config, capture_reporter().reporter)


def test_a_config_without_the_section_is_refused(tiny_run: FinishedRun) -> None:
    with pytest.raises(NoSplitSection, match="no section `split`"):
        split_without_logging(load_config(tiny_run.path), capture_reporter().reporter)
