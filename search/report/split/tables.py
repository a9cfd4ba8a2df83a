"""The tables of a split's page: the verified points, and the other ways to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.evaluation.per_frame import main_score
from search.report.html_tables import Cell
from search.report.score_text import interval_text, score_name, score_text
from search.report.split.series import SplitLine, baselines_of, line_of_point, split_lines
from search.report.split.texts import (
    quality_interval_text,
    quality_text,
    sent_text,
    shown_quality,
    shown_quality_name,
)
from search.results.split_result import SplitMeasurement, SplitPointRecord, SplitResult
from search.utils.format import MEGABYTE

_PARTS = ("device", "encode", "link", "decode", "server")


@dataclass(frozen=True)
class SplitRow:
    """A way to answer."""

    name: Cell
    cells: tuple[Cell, ...]
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitTable:
    """Ways to answer, by rising bytes."""

    header: tuple[str, ...]
    rows: tuple[SplitRow, ...]


def split_header(result: SplitResult, first: str) -> tuple[str, ...]:
    """Return the heads of the columns, equal for points and other ways to answer."""
    return (
        first,
        "Bytes per frame",
        shown_quality_name(result).capitalize(),
        "Total, ms",
        "Device MACs, M",
        "Device MB",
        "Memory, MB",
        *(f"{name.capitalize()}, ms" for name in _PARTS),
        *(f"{name} {score_name(scores)}" for name, scores in result.unsplit.accuracy.items()),
    )


def point_table(result: SplitResult) -> SplitTable:
    """Return the verified points."""
    lines = split_lines(result)
    rows = [
        SplitRow(
            _point_name(lines, point),
            _cells(result, point, str(point.device_memory)),
            tuple(
                mark
                for mark, applies in (
                    ("chosen", point.hash == result.chosen),
                    ("beyond the limits", not point.feasible),
                    ("recalibrated", point.recalibrated),
                )
                if applies
            ),
        )
        for point in sorted(result.points, key=lambda point: point.bytes)
    ]
    return SplitTable(split_header(result, "Point"), tuple(rows))


def baseline_table(result: SplitResult) -> SplitTable:
    """Return the other ways to answer: whole networks, pictures, plain codings."""
    lines = split_lines(result)
    rows = []
    for kind in ("device", "server", "picture", "plain"):
        for record in sorted(baselines_of(result, kind), key=lambda record: record.bytes):
            point = result.point(record.split) if record.split else None
            line = line_of_point(lines, point) if point else None
            note = f"of split {line.letter}" if line else ""
            name = Cell(record.name, record.name, note)
            rows.append(SplitRow(name, _cells(result, record, "")))
    return SplitTable(split_header(result, "Way to answer"), tuple(rows))


def _point_name(lines: Sequence[SplitLine], point: SplitPointRecord) -> Cell:
    """Return the letter of the split and the step, with the hash and the ends in small print."""
    line = line_of_point(lines, point)
    letter = line.letter if line else ""
    name = f"{letter}, step {point.step}"
    return Cell(name, f"{letter} {point.bytes:012.1f}", point.hash)


def _cells(result: SplitResult, measured: SplitMeasurement, memory: str) -> tuple[Cell, ...]:
    quality = shown_quality(result, measured)
    held = f"{int(memory) / MEGABYTE:.2f}" if memory else ""
    parts = [getattr(measured.times, f"{name}_ms") for name in _PARTS]
    most = f"95% at most {sent_text(measured.bytes_p95)}" if measured.bytes else ""
    return (
        Cell(sent_text(measured.bytes), str(measured.bytes), most),
        Cell(quality_text(result, measured), "" if quality is None else str(quality),
             quality_interval_text(result, measured)),
        _time_cell(measured.times.total_ms),
        Cell(f"{measured.device_macs / 1e6:,.0f}", str(measured.device_macs)),
        Cell(f"{measured.device_bytes / MEGABYTE:.2f}", str(measured.device_bytes)),
        Cell(held, memory),
        *map(_time_cell, parts),
        *(_score_cell(measured, name) for name in result.unsplit.accuracy),
    )  # fmt: skip


def _time_cell(time: float) -> Cell:
    return Cell(f"{time:.1f}", str(time))


def _score_cell(measured: SplitMeasurement, name: str) -> Cell:
    scores = measured.accuracy.get(name)
    if scores is None:
        return Cell("-")
    intervals = measured.intervals.get(name)
    note = interval_text(intervals) if intervals else ""
    return Cell(score_text(scores), str(main_score(scores)), note)
