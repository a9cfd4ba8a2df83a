"""The legend below the diagram of a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from search.report.plan_diagram.layout import FONT, MARGIN, Sheet
from search.report.plan_diagram.palette import fill_of, line_of, paint
from search.report.svg import add, level_path, number, text_width
from search.utils.format import MEGABYTE

LINE = 20.0
"""Height of a line of entries."""
MARK = 20.0
DASHES = "4 3"
"""Dash pattern of released stages."""
LONGEST_SCALE = 64.0
"""Greatest width of the scale bar."""
Sign = Literal["live", "released", "share", "scale", "precision"]


@dataclass(frozen=True)
class LegendSign:
    """A sign and its meaning; `x` is the left edge of the sign, `y` its middle."""

    sign: Sign
    text: str
    x: float
    y: float
    width: float
    """Width of the sign."""
    level: float = 1.0
    """How much of the sign of a precision is filled, 0 to 1."""


def legend_of(sheet: Sheet) -> list[LegendSign]:
    """Lay the entries out side by side, in as many lines as they need."""
    storage = sheet.storage
    wanted: list[tuple[Sign, str, float]] = [("live", "live", 1.0)]
    if storage:
        wanted = [("precision", p, storage.level(p)) for p in storage.precisions]
    wanted.append(("released", "released: not loaded", 1.0))
    if sheet.arrows:
        map_text = " and precision" if any(arrow.precision for arrow in sheet.arrows) else ""
        wanted.append(("share", f"share, its similarity{map_text}", 1.0))
    unit = _unit(sheet)
    scale_text = f" in {storage.dtype}; the filled part is held" if storage else ""
    wanted.append(("scale", f"{unit / MEGABYTE:g} MB of weights{scale_text}", 1.0))
    entries, x, y = list[LegendSign](), MARGIN, sheet.bottom + 12
    for sign, text, level in wanted:
        mark = sheet.scale * unit if sign == "scale" else MARK
        width = mark + 6 + text_width(text, FONT)
        if x > MARGIN and x + width > sheet.width:
            x, y = MARGIN, y + LINE
        entries.append(LegendSign(sign, text, x, y, mark, level))
        x += width + 14
    return entries


def _unit(sheet: Sheet) -> float:
    """Return the greatest 1, 2 or 5 times a power of ten of bytes that fits into LONGEST_SCALE."""
    most = LONGEST_SCALE / sheet.scale
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)


def draw_legend(root: ET.Element, entries: list[LegendSign]) -> None:
    group = add(root, "g", class_="pd-legend")
    for entry in entries:
        _SIGNS[entry.sign](group, entry)
        label = add(group, "text", entry.text, x=entry.x + entry.width + 6, y=entry.y,
                   dy="0.35em", font_size=FONT)  # fmt: skip
        paint(label, fill="quiet")


def _box(group: ET.Element, entry: LegendSign) -> ET.Element:
    return add(group, "rect", x=entry.x, y=entry.y - 6, width=entry.width, height=12, rx=2)


def _live(group: ET.Element, entry: LegendSign) -> None:
    paint(_box(group, entry), fill=fill_of(0), stroke=line_of(0))


def _precision(group: ET.Element, entry: LegendSign) -> None:
    paint(_box(group, entry), fill="paper")
    if entry.level == 1:
        paint(_box(group, entry), fill=fill_of(0))
    else:
        path = level_path(entry.x, entry.y + 6, entry.width, 12 * entry.level, 2)
        paint(add(group, "path", d=path), fill=fill_of(0))
    paint(_box(group, entry), fill="none", stroke=line_of(0))


def _released(group: ET.Element, entry: LegendSign) -> None:
    paint(_box(group, entry), fill="paper", stroke="released").set("stroke-dasharray", DASHES)


def _share(group: ET.Element, entry: LegendSign) -> None:
    x, y = number(entry.x), number(entry.y)
    line = add(group, "path", d=f"M{x} {y}h13", stroke_width=2)
    paint(line, stroke=line_of(0))
    paint(add(group, "path", d=f"M{number(entry.x + MARK)} {y}l-8 -4.5v9z"), fill=line_of(0))


def _scale(group: ET.Element, entry: LegendSign) -> None:
    path = f"M{number(entry.x)} {number(entry.y - 4)}v8m0 -4h{number(entry.width)}m0 -4v8"
    paint(add(group, "path", d=path, stroke_width=1.25), fill="none", stroke="quiet")


_SIGNS = {"live": _live, "released": _released, "share": _share, "scale": _scale,
          "precision": _precision}  # fmt: skip
