"""What the device computes against what it sends, with the quality kept as colour and number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

from search.report.charts.axes import Chart, LogAxis, Quantity, format_percent
from search.report.split.marks import MarkShape, add_mark
from search.report.split.rate_chart import describe_way
from search.report.split.series import baselines_of, line_of_point, picture_front, split_lines
from search.report.split.texts import (
    sent_text,
    shown_quality,
    shown_quality_name,
    tick_text,
)
from search.report.svg import PictureText, add, text_width
from search.results.split_result import SplitMeasurement, SplitResult
from search.utils.format import percent

QUALITY_LEVELS = ((0.995, 10), (0.98, 8), (0.95, 6), (0.9, 4), (0.8, 2), (0.0, 0))
"""The least quality of each colour, and its number among the colours of the page."""
NUMBER_SIZE = 11.0


class ShownWay(NamedTuple):
    """A way to answer in the chart."""

    name: str
    measured: SplitMeasurement
    quality: float
    shape: MarkShape


def device_chart(result: SplitResult, size: tuple[float, float]) -> ET.Element:
    """Draw the verified points, the best pictures, and the whole network on the device.

    Small dots are the points of the study's front, as they are predicted.
    """
    ways = list(_ways(result))
    sizes = [way.measured.bytes for way in ways] + [p.predicted_bytes for p in result.front]
    shares = [_share(result, way.measured) for way in ways]
    shares += [p.device_macs / result.unsplit.macs for p in result.front]
    chart = Chart.empty(
        _description(result, ways, size),
        Quantity("bytes per frame", sizes, tick_text, LogAxis),
        Quantity("MACs on the device, of all unmerged", [*shares, 0.0, 1.0], format_percent),
        size,
    )
    for predicted in result.front:
        share = predicted.device_macs / result.unsplit.macs
        chart.point(predicted.predicted_bytes, share, "c-guess", radius=1.8)
    taken: list[tuple[float, float]] = []
    for way in sorted(ways, key=lambda way: getattr(way.measured, "hash", "") != result.chosen):
        _draw_way(chart, result, way, taken)
    _draw_row_letters(chart, result)
    return chart.root


def quality_level(quality: float) -> int:
    """Return the colour of a quality, 0 to 10."""
    return next((level for least, level in QUALITY_LEVELS if quality >= least), 0)


def quality_levels(result: SplitResult) -> list[tuple[int, str]]:
    """Return the colours that occur with their meaning, from the highest quality down."""
    used = {quality_level(way.quality) for way in _ways(result)}
    upper = ["", *(f" to {percent(least)}" for least, _ in QUALITY_LEVELS)]
    texts = [
        f"{percent(least)}{more}" for (least, _), more in zip(QUALITY_LEVELS, upper, strict=False)
    ]
    texts = [
        f"{percent(QUALITY_LEVELS[0][0])} or more",
        *texts[1:-1],
        f"below {percent(QUALITY_LEVELS[-2][0])}",
    ]
    return [
        (level, text)
        for (_, level), text in zip(QUALITY_LEVELS, texts, strict=True)
        if level in used
    ]


def _ways(result: SplitResult) -> Iterator[ShownWay]:
    shown: list[tuple[str, SplitMeasurement, MarkShape]] = [
        (f"{line.letter}, step {point.step}", point, "circle")
        for line in split_lines(result)
        for point in line.points
    ]
    shown += [(record.name, record, "square") for record in picture_front(result)]
    shown += [(record.name, record, "diamond") for record in baselines_of(result, "device")]
    for name, measured, shape in shown:
        quality = shown_quality(result, measured)
        if quality is not None:
            yield ShownWay(name, measured, quality, shape)


def _share(result: SplitResult, measured: SplitMeasurement) -> float:
    return measured.device_macs / result.unsplit.macs


def _draw_way(
    chart: Chart, result: SplitResult, way: ShownWay, taken: list[tuple[float, float]]
) -> None:
    """Draw a mark in the colour of its quality, and its quality above, where there is room."""
    share = _share(result, way.measured)
    at = chart.x.position(way.measured.bytes), chart.y.position(share)
    if getattr(way.measured, "hash", None) == result.chosen:
        add(chart.root, "circle", cx=at[0], cy=at[1], r=9.0, class_="c-chosen")
    hint = f"{describe_way(result, way.name, way.measured)}, {percent(share)} of the MACs"
    add_mark(chart.root, way.shape, at, f"s-level l{quality_level(way.quality)}", hint)
    text = f"{100 * way.quality:.0f}"
    room = text_width(text, NUMBER_SIZE) + 4
    if all(abs(at[0] - x) > room or abs(at[1] - y) > NUMBER_SIZE for x, y in taken):
        at_edge = at[0] < chart.x.start + room  # above the mark is the name of the other axis
        place = (at[0] + 9, at[1] + 4) if at_edge else (at[0], at[1] - 11)
        chart.text(text, place, "start" if at_edge else "middle", "s-number")
        taken.append(at)


def _draw_row_letters(chart: Chart, result: SplitResult) -> None:
    """Write the letter of each split to the left of all its points, predicted ones included."""
    lines = split_lines(result)
    for line in lines:
        predicted = [p.predicted_bytes for p in result.front if line_of_point(lines, p) is line]
        x = chart.x.position(min([line.points[0].bytes, *predicted]))
        y = chart.y.position(_share(result, line.points[0]))
        chart.text(line.letter, (x - 10, y + 4), "end", "s-letter")


def _description(
    result: SplitResult, ways: Sequence[ShownWay], size: tuple[float, float]
) -> PictureText:
    parts = [
        f"{way.name}: {percent(_share(result, way.measured))} of the MACs on the device, "
        f"{sent_text(way.measured.bytes)}, {percent(way.quality)} {shown_quality_name(result)}"
        for way in ways
    ]
    title = f"Bytes per frame, MACs on the device, and {shown_quality_name(result)}"
    return PictureText(f"device-{size[0]:.0f}", title, "; ".join(parts) + ".")
