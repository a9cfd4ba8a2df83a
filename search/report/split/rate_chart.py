"""The chart of a split: bytes per frame, on a logarithmic axis, against the quality kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree as ET

from search.report.charts.axes import Chart, LogAxis, Quantity, format_percent
from search.report.plan_diagram.palette import line_of, paint
from search.report.split.marks import MarkShape, add_mark, picture_formats, picture_shape
from search.report.split.series import (
    PictureLine,
    SplitLine,
    baselines_of,
    line_of_point,
    picture_lines,
    split_lines,
)
from search.report.split.texts import (
    quality_interval_text,
    quality_text,
    sent_text,
    shown_interval,
    shown_quality,
    shown_quality_name,
    tick_text,
)
from search.report.svg import PictureText, add
from search.results.split_result import SplitBaselineRecord, SplitMeasurement, SplitResult
from search.utils.format import percent

WIDE_CHART, NARROW_CHART = (860.0, 430.0), (368.0, 350.0)
"""Sizes in pixels for a screen and for a phone, at which the text has its intended size."""
ROOM_BELOW = 0.08
"""How far below the splits' lowest quality other ways to answer are still shown."""

LETTER_PLACES = ((-14.0, 0.0), (0.0, 16.0), (0.0, -16.0), (14.0, 0.0))
"""Places of the letter of a split around a point, the best first."""
LETTER_ROOM = 12.0
"""Least distance of a letter from marks and other letters."""


class RateRange(NamedTuple):
    """The values that the axes cover."""

    bytes: list[float]
    qualities: list[float]

    @property
    def floor(self) -> float:
        """The lowest quality that is shown."""
        return min(self.qualities)


@dataclass(frozen=True)
class RateChart:
    """A chart in the making, and the result that it shows."""

    chart: Chart
    result: SplitResult
    floor: float

    def place(self, measured: SplitMeasurement) -> tuple[float, float] | None:
        """Return where a measurement lies; None if it is below the chart or not known."""
        quality = shown_quality(self.result, measured)
        if quality is None or quality < self.floor:
            return None
        return self.chart.x.position(measured.bytes), self.chart.y.position(quality)


def rate_chart(result: SplitResult, size: tuple[float, float] = WIDE_CHART) -> ET.Element:
    """Draw the splits, the picture formats, the plain codings, and the whole network anywhere."""
    shown = rate_range(result)
    chart = Chart.empty(
        _description(result, size),
        Quantity("bytes per frame", shown.bytes, tick_text, LogAxis),
        Quantity(shown_quality_name(result), shown.qualities, format_percent),
        size,
    )
    drawing = RateChart(chart, result, shown.floor)
    chart.horizontal_line(1.0, "s-unsplit")
    formats = picture_formats(result)
    for pictures in picture_lines(result):
        _draw_pictures(drawing, pictures, picture_shape(formats, pictures.format))
    lines = split_lines(result)
    _draw_plain(drawing, lines)
    for line in lines:
        _draw_split(drawing, line)
    _draw_letters(drawing, lines)
    _draw_whole(drawing, baselines_of(result, "device"), "diamond")
    _draw_whole(drawing, baselines_of(result, "server"), "square")
    return chart.root


def rate_range(result: SplitResult) -> RateRange:
    """Return what the axes cover: all splits, and what keeps little less than the worst of them.

    Without a verified split they cover all other ways to answer.
    """
    measured: list[SplitMeasurement] = [*result.points, *result.baselines]
    pairs = [(m, q) for m in measured if (q := shown_quality(result, m)) is not None]
    own = [q for m, q in pairs if m in result.points]
    own += [end for point in result.points for end in shown_interval(result, point) or ()]
    floor = min(own, default=0.0) - ROOM_BELOW
    near = [(m, q) for m, q in pairs if q >= floor]
    return RateRange([m.bytes for m, _ in near], [*own, *(q for _, q in near), 1.0])


def hidden_codings(result: SplitResult) -> int:
    """Return how many other ways to answer keep too little to be in the chart."""
    floor = rate_range(result).floor
    known = (shown_quality(result, record) for record in result.baselines)
    return sum(quality < floor for quality in known if quality is not None)


def describe_way(result: SplitResult, name: str, measured: SplitMeasurement) -> str:
    """Return a way to answer with its bytes and its quality."""
    interval = quality_interval_text(result, measured)
    more = f" ({interval})" if interval else ""
    return f"{name}: {sent_text(measured.bytes)}, {quality_text(result, measured)}{more}"


def _draw_pictures(drawing: RateChart, line: PictureLine, style: tuple[MarkShape, str]) -> None:
    shape, dashes = style
    placed = [(coding, at) for coding in line.codings if (at := drawing.place(coding))]
    path = " ".join(f"{x:.2f},{y:.2f}" for _, (x, y) in placed)
    add(drawing.chart.root, "polyline", points=path, class_="s-picture-line",
        stroke_dasharray=dashes)  # fmt: skip
    for coding, at in placed:
        hint = describe_way(drawing.result, coding.name, coding)
        add_mark(drawing.chart.root, shape, at, "s-picture", hint)


def _draw_plain(drawing: RateChart, lines: Sequence[SplitLine]) -> None:
    """Draw the plain codings in the colours of the splits whose representations they send."""
    for coding in baselines_of(drawing.result, "plain"):
        at = drawing.place(coding)
        point = drawing.result.point(coding.split) if coding.split else None
        line = line_of_point(lines, point) if point else None
        if at is not None:
            letter = f" of {line.letter}" if line else ""
            hint = describe_way(drawing.result, f"{coding.name}{letter}", coding)
            mark = add_mark(drawing.chart.root, "up", at, "s-plain", hint)
            if line is not None:
                paint(mark, stroke=line_of(line.index))


def _draw_split(drawing: RateChart, line: SplitLine) -> None:
    chart, result, colour = drawing.chart, drawing.result, line_of(line.index)
    placed = [(point, at) for point in line.points if (at := drawing.place(point))]
    path = " ".join(f"{x:.2f},{y:.2f}" for _, (x, y) in placed)
    paint(add(chart.root, "polyline", points=path, stroke_width=2), stroke=colour, fill="none")
    for point, at in placed:
        interval = shown_interval(result, point)
        if interval is not None:
            ends = (chart.y.position(end) for end in interval)
            bar = add(chart.root, "path", d="M{:.2f} {:.2f}V{:.2f}".format(at[0], *ends),
                      class_="s-interval")  # fmt: skip
            paint(bar, stroke=colour)
        if point.hash == result.chosen:
            add(chart.root, "circle", cx=at[0], cy=at[1], r=9.0, class_="c-chosen")
        hint = describe_way(result, f"{line.letter}, step {point.step}", point)
        paint(add_mark(chart.root, "circle", at, "", hint), fill=colour)


def _draw_letters(drawing: RateChart, lines: Sequence[SplitLine]) -> None:
    """Write the letter of each split beside its smallest point that has room for it."""
    everything = (*drawing.result.points, *drawing.result.baselines)
    marks = [at for measured in everything if (at := drawing.place(measured))]
    for line in lines:
        own = [at for point in line.points if (at := drawing.place(point))]
        places = [(x + dx, y + dy) for x, y in own for dx, dy in LETTER_PLACES]
        free = [p for p in places if all(math.dist(p, mark) > LETTER_ROOM for mark in marks)]
        for x, y in [*free, *places][:1]:
            text = add(drawing.chart.root, "text", line.letter, x=x, y=y, dy="0.35em",
                       text_anchor="middle", class_="s-letter")  # fmt: skip
            paint(text, fill=line_of(line.index))
            marks.append((x, y))


def _draw_whole(
    drawing: RateChart, records: Sequence[SplitBaselineRecord], shape: MarkShape
) -> None:
    for record in records:
        at = drawing.place(record)
        if at is not None:
            hint = describe_way(drawing.result, record.name, record)
            add_mark(drawing.chart.root, shape, at, "s-whole", hint)


def _description(result: SplitResult, size: tuple[float, float]) -> PictureText:
    ways = [
        describe_way(result, f"split {line.letter}, {line.name}, step {point.step}", point)
        + (", chosen" if point.hash == result.chosen else "")
        for line in split_lines(result)
        for point in line.points
    ]
    ways += [describe_way(result, record.name, record) for record in result.baselines]
    title = f"Bytes per frame against {shown_quality_name(result)}"
    floor = percent(rate_range(result).floor)
    text = f"{'; '.join(ways)}. What keeps less than {floor} is not drawn."
    return PictureText(f"rates-{size[0]:.0f}", title, text)
