"""The front as SVG: bytes held against quality kept, on the report page and as OUT/front.svg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal
from xml.etree import ElementTree as ET

from search.report.charts.axes import Chart, Quantity, format_number, format_percent
from search.report.charts.measured import (
    MeasuredCandidate,
    charted_floor,
    fidelity_label,
    measured_alternatives,
    measured_candidates,
    quality_name,
)
from search.report.svg import PictureText, add, new_picture, standalone_text, text_width
from search.results.alternative import describe_alternative
from search.results.kept_quality import no_baseline_text
from search.results.search_result import Result
from search.utils.format import MEGABYTE, megabytes, percent, percent_interval

FRONT_PICTURE = "front.svg"
PAGE_SIZE = (460.0, 320.0)
"""On the page, where it shares the width with the plan."""
STANDALONE_SIZE = (760.0, 440.0)
TITLE_HEIGHT, LEGEND_LINE, CHART_MARGIN = 34.0, 22.0, 14.0
FONT_SIZE = 12.0
"""The font size that `chart.css` sets."""
Mark = Literal[
    "verified", "behind", "interval", "chosen", "predicted", "unmerged", "alternative", "limit"
]


@dataclass(frozen=True)
class LegendEntry:
    """A mark of the chart and its meaning."""

    mark: Mark
    text: str


def front_legend(result: Result) -> list[LegendEntry]:
    """Return the legend of the chart, for the page and for the standalone picture."""
    if result.has_baseline:
        entries = [
            LegendEntry("verified", "verified front"),
            LegendEntry("behind", "verified, dominated"),
            LegendEntry("interval", "95% interval"),
        ]
    else:
        entries = [LegendEntry("verified", fidelity_label(result))]
    if result.chosen:
        entries.append(LegendEntry("chosen", "chosen"))
    entries += [
        LegendEntry("predicted", "predicted by the proxy"),
        LegendEntry("unmerged", "unmerged"),
    ]
    if result.alternatives:
        precisions = " and ".join(a.precision for a in result.alternatives)
        entries.append(LegendEntry("alternative", f"unmerged, all weights in {precisions}"))
    if result.budget_bytes is not None:
        entries.append(LegendEntry("limit", "budget"))
    elif charted_floor(result) is not None:
        entries.append(LegendEntry("limit", "required of every model"))
    return entries


def front_chart(result: Result, size: tuple[float, float] = PAGE_SIZE) -> ET.Element:
    """Draw the predicted front, the measured candidates, the unmerged models and the limit."""
    candidates = measured_candidates(result)
    chart = Chart.empty(
        _description(result, candidates),
        Quantity("MB held", [n / MEGABYTE for n in _sizes(result, candidates)], format_number),
        Quantity(quality_name(result), _qualities(result, candidates), format_percent),
        size,
    )
    _draw_limit(chart, result)
    _draw_predicted(chart, sorted((r.bytes / MEGABYTE, r.proxy) for r in result.front))
    hint = f"unmerged: {megabytes(result.unmerged_bytes)}, 100%"
    chart.point(result.unmerged_bytes / MEGABYTE, 1.0, "c-unmerged", hint)
    _draw_alternatives(chart, result)
    _draw_candidates(chart, result, candidates)
    return chart.root


def front_svg(result: Result) -> str:
    """Return the chart as an SVG file with a title, a legend and its own style."""
    width, height = STANDALONE_SIZE
    chart = front_chart(result, STANDALONE_SIZE)
    title, description = (chart.findtext(tag) or "" for tag in ("title", "desc"))
    lines = _legend_lines(front_legend(result), width - 2 * CHART_MARGIN)
    total = TITLE_HEIGHT + height + LEGEND_LINE * len(lines) + CHART_MARGIN
    root = new_picture(width, total, PictureText("standalone-front", title, description))
    root.set("class", "chart")
    root.set("width", f"{width:g}")
    root.set("height", f"{total:g}")
    add(root, "style", chart_style())
    add(root, "rect", width="100%", height="100%", class_="c-paper")
    heading = f"{result.name}: {quality_name(result)} against bytes"
    add(root, "text", heading, x=CHART_MARGIN, y=24.0, class_="c-title")
    plot = add(root, "g", transform=f"translate(0 {TITLE_HEIGHT:g})")
    plot.extend(part for part in chart if part.tag not in ("title", "desc"))
    for number, line in enumerate(lines):
        _draw_legend_line(root, line, TITLE_HEIGHT + height + LEGEND_LINE * (number + 0.5))
    return standalone_text(root)


def chart_style() -> str:
    """Return the style of an SVG chart outside the page: colours, light and dark, and marks."""
    templates = files("search.report").joinpath("templates")
    return "\n".join(
        templates.joinpath(name).read_text(encoding="utf-8")
        for name in ("colours.css", "chart.css")
    )


def _sizes(result: Result, candidates: Sequence[MeasuredCandidate]) -> list[int]:
    """Return the bytes that the axis must cover."""
    limit = [] if result.budget_bytes is None else [result.budget_bytes]
    records = [m.record for m in candidates] or result.front
    others = [a.bytes for a, _ in measured_alternatives(result)]
    return [*(r.bytes for r in records), *others, result.unmerged_bytes, *limit]


def _qualities(result: Result, candidates: Sequence[MeasuredCandidate]) -> list[float]:
    """Return the qualities that the axis must cover."""
    floor = charted_floor(result)
    limit = [q for _, q in measured_alternatives(result)] + ([] if floor is None else [floor])
    if not candidates:
        return [*(r.proxy for r in result.front), 1.0, *limit]
    ends = [end for m in candidates for end in m.interval or ()]
    return [*(m.quality for m in candidates), *ends, 1.0, *limit]


def _draw_predicted(chart: Chart, predicted: Sequence[tuple[float, float]]) -> None:
    """Draw the front that the proxy predicts, clipped to the plot."""
    clip = add(chart.root, "clipPath", id="front-plot")
    add(clip, "rect", x=chart.x.start, y=chart.y.end, width=chart.x.end - chart.x.start,
        height=chart.y.start - chart.y.end)  # fmt: skip
    clipped = chart.within(add(chart.root, "g", clip_path="url(#front-plot)"))
    clipped.polyline(predicted, "c-predicted")
    for size, proxy in predicted:
        clipped.point(size, proxy, "c-guess", radius=2.0)


def _draw_candidates(
    chart: Chart, result: Result, candidates: Sequence[MeasuredCandidate]
) -> None:
    steps = [(m.record.bytes / MEGABYTE, m.quality) for m in candidates if m.on_front]
    chart.polyline(steps, "c-front")
    for m in sorted(candidates, key=lambda m: m.on_front or m.record.hash == result.chosen):
        size, interval = m.record.bytes / MEGABYTE, ""
        if m.interval is not None:
            low, high = m.interval
            chart.vertical_line(size, low, high, "c-interval")
            interval = f" ({percent_interval(m.interval)})"
        if m.record.hash == result.chosen:
            chart.point(size, m.quality, "c-chosen", radius=9.0)
        kind = "c-verified" if m.on_front or not steps else "c-behind"
        hint = f"{m.record.hash}: {megabytes(m.record.bytes)}, {percent(m.quality)}{interval}"
        chart.point(size, m.quality, kind, hint)


def _draw_alternatives(chart: Chart, result: Result) -> None:
    """Draw what the unmerged models keep with all weights in a lower precision, by name."""
    for a, quality in measured_alternatives(result):
        size = a.bytes / MEGABYTE
        hint = f"{describe_alternative(a, result.at_chance)}, nothing shared"
        chart.point(size, quality, "c-alternative", hint)
        place = (chart.x.position(size), chart.y.position(quality) + 18)
        chart.text(a.precision, place, "middle", "c-alternative-name")


def _draw_limit(chart: Chart, result: Result) -> None:
    """Draw the budget as a vertical line, or the quality floor as a horizontal one."""
    if result.budget_bytes is not None:
        budget = result.budget_bytes / MEGABYTE
        chart.vertical_line(budget, chart.y.low, chart.y.high, "c-limit")
        at = chart.x.position(budget)
        left = at > (chart.x.start + chart.x.end) / 2
        place = (at + (-6 if left else 6), chart.y.start - 8)
        name = f"budget {megabytes(result.budget_bytes)}"
        chart.text(name, place, "end" if left else "start", "c-limit-name")
    floor = charted_floor(result)
    if floor is not None:
        chart.horizontal_line(floor, "c-limit")
        name = f"every model keeps {percent(floor)}"
        place = (chart.x.end - 4, chart.y.position(floor) + 15)
        chart.text(name, place, "end", "c-limit-name")


def _description(result: Result, candidates: Sequence[MeasuredCandidate]) -> PictureText:
    plans = [
        f"{m.record.hash} holds {megabytes(m.record.bytes)} at {percent(m.quality)}"
        + (", on the verified front" if m.on_front else "")
        + (", chosen" if m.record.hash == result.chosen else "")
        for m in candidates
    ]
    limit = (
        f"The budget is {megabytes(result.budget_bytes)}."
        if result.budget_bytes is not None
        else f"Every model must keep {percent(result.quality_floor)}."
    )
    unmerged = f"Unmerged {megabytes(result.unmerged_bytes)} at 100%."
    others = [describe_alternative(a, result.at_chance) for a in result.alternatives]
    unmerged += f" Without merging, {'; '.join(others)}." if others else ""
    title = f"Bytes held against {quality_name(result)}"
    reason = f" Quality kept has {no_baseline_text(result.at_chance)}." if result.at_chance else ""
    return PictureText("front", title, f"{limit} {unmerged} {'; '.join(plans)}.{reason}")


def _legend_lines(entries: Sequence[LegendEntry], width: float) -> list[list[LegendEntry]]:
    """Distribute the entries over lines of that width."""
    lines: list[list[LegendEntry]] = [[]]
    line_width = 0.0
    for entry in entries:
        needed = _legend_width(entry)
        if lines[-1] and line_width + needed > width:
            lines.append([])
            line_width = 0.0
        lines[-1].append(entry)
        line_width += needed
    return lines


def _legend_width(entry: LegendEntry) -> float:
    return 24 + text_width(entry.text, FONT_SIZE) + 18


def _draw_legend_line(root: ET.Element, entries: Sequence[LegendEntry], y: float) -> None:
    x = CHART_MARGIN
    for entry in entries:
        _draw_mark(root, entry.mark, x + 8, y)
        add(root, "text", entry.text, x=x + 24, y=y + 4)
        x += _legend_width(entry)


def _draw_mark(root: ET.Element, mark: Mark, x: float, y: float) -> None:
    if mark in ("predicted", "limit"):
        add(root, "line", x1=x - 8, x2=x + 8, y1=y, y2=y, class_=f"c-{mark}")
    elif mark == "interval":
        add(root, "line", x1=x, x2=x, y1=y - 7, y2=y + 7, class_="c-interval")
    else:
        add(root, "circle", cx=x, cy=y, r=6.0 if mark == "chosen" else 4.0, class_=f"c-{mark}")
