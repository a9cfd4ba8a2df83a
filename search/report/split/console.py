"""The outcome of a split on the console: the verified points, and the other ways to answer."""

from __future__ import annotations

from search.report.split.headline import split_comparisons, split_headline
from search.report.split.series import baselines_of, picture_front
from search.report.split.texts import (
    quality_interval_text,
    quality_text,
    sent_text,
    shown_quality_name,
)
from search.results.split_result import SplitBaselineRecord, SplitMeasurement, SplitResult
from search.utils.format import MEGABYTE, percent
from search.utils.reporter import Reporter

NO_PLAN = "unmerged"


def print_split(result: SplitResult, reporter: Reporter) -> None:
    """Print the verified points by rising bytes, then the other ways, and who is better."""
    header = ["split", "plan", "weights", "ends", "per frame", "device MACs", "memory MB",
              "total ms", shown_quality_name(result), "95% interval"]  # fmt: skip
    rows = [
        [point.hash + (" *" if point.hash == result.chosen else ""),
         _plan_text(point.plan, result), point.precision, point.label, sent_text(point.bytes),
         percent(point.device_share), f"{point.device_memory / MEGABYTE:.2f}",
         _time(point) + ("" if point.feasible else " !"), *_quality(result, point)]
        for point in sorted(result.points, key=lambda point: point.bytes)
    ]  # fmt: skip
    marks = "* chosen" + (
        ", ! beyond the limits" if not all(p.feasible for p in result.points) else ""
    )
    reporter.table(f"Verified splits ({marks})", header, rows)
    reporter.say("")
    header = ["other ways to answer", "per frame", "device MACs", "weights MB", "total ms",
              shown_quality_name(result), "95% interval"]  # fmt: skip
    rows = [
        [_name(way), sent_text(way.bytes), percent(way.device_macs / result.unsplit.macs),
         f"{way.device_bytes / MEGABYTE:.2f}", _time(way), *_quality(result, way)]
        for way in shown_ways(result)
    ]  # fmt: skip
    reporter.table("On the same frames", header, rows)
    reporter.say("")
    for sentence in (split_headline(result), *split_comparisons(result)):
        reporter.say(sentence)


def shown_ways(result: SplitResult) -> list[SplitBaselineRecord]:
    """Return whole networks, the pictures that no other picture beats, and plain codings."""
    plain = sorted(baselines_of(result, "plain"), key=lambda way: way.bytes)
    return [
        *baselines_of(result, "device"),
        *baselines_of(result, "server"),
        *picture_front(result),
        *plain,
    ]


def _plan_text(plan: str, result: SplitResult) -> str:
    return plan if result.plans[plan]["shares"] else NO_PLAN


def _name(way: SplitBaselineRecord) -> str:
    return f"{way.name}, of {way.split}" if way.split else way.name


def _time(measured: SplitMeasurement) -> str:
    return f"{measured.times.total_ms:.0f}"


def _quality(result: SplitResult, measured: SplitMeasurement) -> tuple[str, str]:
    return quality_text(result, measured), quality_interval_text(result, measured)
