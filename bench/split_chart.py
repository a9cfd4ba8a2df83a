"""Draw docs/images/split-detector.svg: bytes against the share of the unsplit detector's mAP.

    python bench/split.py --part detector | python bench/split_chart.py

The last line that is read is the JSON object of `split.py`. A split's marks are larger the more
of the MACs the device computes. The published detectors have one set of weights each, other data
and larger frames: their bytes are drawn as published, and compare only within their own lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from search.report.charts.axes import Chart, LogAxis, Quantity, format_percent
from search.report.charts.front import chart_style
from search.report.plan_diagram import palette
from search.report.plan_diagram.palette import line_of, paint
from search.report.split.marks import PICTURE_DASHES, PICTURE_SHAPES, MarkShape, add_mark
from search.report.split.texts import tick_text
from search.report.svg import PictureText, add, new_picture, standalone_text
from search.utils.files import write_text

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "split-detector.svg"
PLOT = (860.0, 460.0)
"""Pixels at which the text has its intended size."""
TITLE_HEIGHT, LEGEND_LINE, MARGIN = 34.0, 20.0, 16.0
TITLE = "Share of the unsplit detector's mAP against bytes per frame"
TEACHER = 42.16
"""The mAP of the teacher of both published detectors, in percent."""
PUBLISHED: Mapping[str, Sequence[tuple[float, float]]] = {
    "slimmable EfficientDet-D2, COCO at 768 px (arXiv 2105.00591)":
        ((73.7, 37.05), (110.6, 38.45), (184.0, 40.52), (442.0, 40.79)),
    "ensemble of 4 small encoders, same teacher (arXiv 2306.12691)":
        ((6.9, 16.6), (13.8, 29.7), (20.7, 34.6), (27.6, 36.8)),
    "1 of these encoders":
        ((6.9, 14.5), (13.8, 27.7), (20.7, 32.0), (27.6, 34.3)),
}  # fmt: skip
"""Kilobytes a frame, and mAP in percent."""
STYLE = """
.v-line { fill: none; stroke-width: 1.75; }
.v-paper { fill: var(--paper); stroke-width: 1.5; }
.v-picture { fill: none; stroke: var(--quiet); stroke-width: 1.25; }
.v-picture-mark { fill: var(--paper); stroke: var(--quiet); stroke-width: 1.25; }
.chart .v-macs { fill: var(--ink); font-weight: 600; }
"""


class Line(NamedTuple):
    """The points of one method, by rising bytes, and how they look."""

    name: str
    points: tuple[tuple[float, float], ...]
    """Bytes a frame, and the share that is kept."""
    kind: str
    """`split`, `picture` or `published`."""
    number: int
    """Among those of its kind."""
    macs: float | None = None
    """Of the network, on the device."""


def main() -> None:
    *_, last = filter(str.strip, sys.stdin)
    write_text(PICTURE, draw(lines(json.loads(last)["detector"])))


def lines(part: Mapping[str, Any]) -> list[Line]:
    """Return the lines of the detector's part and the published ones."""
    points: dict[str, list[tuple[float, float]]] = {}
    for point in part["points"]:
        points.setdefault(point["method"], []).append((point["bytes"], point["kept"]))
    found: list[Line] = []
    for method, own in points.items():
        kind, _, end = method.partition(" ")
        is_split = kind == "ours"
        number = sum((line.kind == "split") == is_split for line in found)
        macs = part["device"][end]["macs"] if is_split else None
        name = f"split after {end.partition(':')[2]}" if is_split else f"{method} at 256 px"
        found.append(Line(name, tuple(sorted(own)), "split" if is_split else "picture", number,
                          macs))  # fmt: skip
    return found + [
        Line(name, tuple((1000 * kilobytes, score / TEACHER) for kilobytes, score in own),
             "published", number)
        for number, (name, own) in enumerate(PUBLISHED.items())
    ]  # fmt: skip


def draw(drawn: Sequence[Line]) -> str:
    """Return the chart as an SVG file with a title, a legend and its own style."""
    width, height = PLOT
    total = TITLE_HEIGHT + height + LEGEND_LINE * len(drawn) + MARGIN
    root = new_picture(width, total, PictureText("split-detector", TITLE, describe(drawn)))
    root.set("class", "chart")
    add(root, "style", "\n".join([chart_style(), palette.style(), STYLE]))
    add(root, "rect", width="100%", height="100%", class_="c-paper")
    add(root, "text", TITLE, x=MARGIN, y=24.0, class_="c-title")
    plot = add(root, "g", transform=f"translate(0 {TITLE_HEIGHT:g})")
    plot.extend(part for part in draw_plot(drawn).root if part.tag not in ("title", "desc"))
    for number, line in enumerate(drawn):
        draw_entry(root, line, TITLE_HEIGHT + height + LEGEND_LINE * (number + 0.5))
    return standalone_text(root)


def draw_plot(drawn: Sequence[Line]) -> Chart:
    points = [point for line in drawn for point in line.points]
    chart = Chart.empty(
        PictureText("plot", TITLE, ""),
        Quantity("bytes per frame", [size for size, _ in points], tick_text, LogAxis),
        Quantity("share of the mAP kept", [1.0, *(kept for _, kept in points)], format_percent),
        PLOT,
    )
    for line in reversed(drawn):
        places = [(chart.x.position(size), chart.y.position(kept)) for size, kept in line.points]
        draw_line(chart.root, line, places)
        for place, point in zip(places, line.points, strict=True):
            draw_mark(chart.root, line, place, describe_point(*point))
    return chart


def draw_line(parent: ET.Element, line: Line, places: Sequence[tuple[float, float]]) -> None:
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    if line.kind == "picture":
        add(parent, "polyline", points=path, class_="v-picture",
            stroke_dasharray=PICTURE_DASHES[line.number])  # fmt: skip
        return
    dashes = "none" if line.kind == "split" else "2 4"
    paint(add(parent, "polyline", points=path, class_="v-line", stroke_dasharray=dashes),
          stroke=line_of(colour(line)))  # fmt: skip


def draw_mark(parent: ET.Element, line: Line, at: tuple[float, float], hint: str) -> None:
    hint = f"{line.name}: {hint}"
    if line.kind == "picture":
        add_mark(parent, PICTURE_SHAPES[line.number], at, "v-picture-mark", hint)
    elif line.macs is None:
        shape: MarkShape = "diamond" if line.number == 0 else "up"
        paint(add_mark(parent, shape, at, "v-paper", hint), stroke=line_of(colour(line)))
    else:
        mark = add(parent, "circle", cx=at[0], cy=at[1], r=11 * line.macs**0.5)
        add(mark, "title", hint)
        paint(mark, fill=line_of(colour(line)))


def colour(line: Line) -> int:
    """Return the number of a line's colour: splits have the first three."""
    return line.number + (0 if line.kind == "split" else 3)


def draw_entry(root: ET.Element, line: Line, y: float) -> None:
    """Draw a line of the legend."""
    middle = MARGIN + 18
    draw_line(root, line, [(MARGIN, y), (MARGIN + 36, y)])
    draw_mark(root, line, (middle, y), "")
    text = add(root, "text", line.name, x=MARGIN + 46, y=y + 4)
    if line.macs is not None:
        add(text, "tspan", f", {line.macs:.0%} of the MACs on the device", class_="v-macs")


def describe(drawn: Sequence[Line]) -> str:
    return "; ".join(
        f"{line.name}: {', '.join(describe_point(*point) for point in line.points)}"
        for line in drawn
    )


def describe_point(size: float, kept: float) -> str:
    return f"{size:,.0f} bytes, {kept:.3f} kept"


if __name__ == "__main__":
    main()
