"""The marks of a split's charts and their legend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from markupsafe import Markup

from search.report.page_parts import picture_markup
from search.report.plan_diagram.palette import line_of, paint
from search.report.split.series import SplitLine, baselines_of, picture_lines
from search.report.split.texts import has_quality, shown_quality_name
from search.report.svg import add, number
from search.results.split_result import SplitResult

MarkShape = Literal["circle", "square", "up", "down", "diamond", "cross"]
RADIUS = 4.5
PICTURE_SHAPES: tuple[MarkShape, ...] = ("square", "down", "cross", "diamond")
"""Of picture formats, in the order in which they were measured."""
PICTURE_DASHES = ("6 3", "2 3", "9 3 2 3", "1 2")
"""Of their lines."""
_ICON = (26.0, 14.0)
_PATHS = {
    "square": "M{w} {n}H{e}V{s}H{w}z",
    "up": "M{x} {n}L{e} {s}H{w}z",
    "down": "M{x} {s}L{e} {n}H{w}z",
    "diamond": "M{x} {n}L{e} {y}L{x} {s}L{w} {y}z",
    "cross": "M{w} {n}L{e} {s}M{w} {s}L{e} {n}",
}


@dataclass(frozen=True)
class LegendIcon:
    """A mark as a picture of its own, and its meaning."""

    picture: Markup
    text: str


def add_mark(
    parent: ET.Element, shape: MarkShape, at: tuple[float, float], kind: str, hint: str = ""
) -> ET.Element:
    """Draw a mark around a place; a browser shows `hint` when the pointer rests on it."""
    x, y = at
    if shape == "circle":
        mark = add(parent, "circle", cx=x, cy=y, r=RADIUS, class_=kind)
    else:
        edges = {"n": y - RADIUS, "s": y + RADIUS, "w": x - RADIUS, "e": x + RADIUS}
        places = {name: number(value) for name, value in {"x": x, "y": y, **edges}.items()}
        mark = add(parent, "path", d=_PATHS[shape].format(**places), class_=kind)
    if hint:
        add(mark, "title", hint)
    return mark


def picture_formats(result: SplitResult) -> tuple[str, ...]:
    """Return the picture formats that were measured, in order."""
    return tuple(dict.fromkeys(line.format for line in picture_lines(result)))


def picture_shape(formats: tuple[str, ...], name: str) -> tuple[MarkShape, str]:
    """Return the mark and the dash pattern of a picture format."""
    index = formats.index(name)
    return PICTURE_SHAPES[index % len(PICTURE_SHAPES)], PICTURE_DASHES[index % len(PICTURE_DASHES)]


def rate_legend(result: SplitResult, lines: Iterable[SplitLine]) -> list[LegendIcon]:
    """Return the legend of the chart of bytes against quality."""
    entries = [_split_icon(line) for line in lines]
    if result.chosen_point is not None:
        entries.append(_icon("circle", "c-chosen", "chosen"))
    if has_quality(result):
        entries.append(_interval_icon())
    formats = picture_formats(result)
    for name in formats:
        shape, dashes = picture_shape(formats, name)
        entries.append(_icon(shape, "s-picture", f"{name}, whole networks on the server", dashes))
    if baselines_of(result, "plain"):
        entries.append(_icon("up", "s-plain", "plain coding of what a split sends"))
    if baselines_of(result, "device"):
        entries.append(_icon("diamond", "s-whole", "whole networks on the device"))
    if baselines_of(result, "server"):
        entries.append(
            _icon("square", "s-whole", "lossless pictures, whole networks on the server")
        )
    entries.append(_unsplit_icon(shown_quality_name(result)))
    return entries


def _picture() -> ET.Element:
    width, height = _ICON
    box = f"0 0 {number(width)} {number(height)}"
    return ET.Element("svg", {"viewBox": box, "class": "icon", "aria-hidden": "true"})


def _icon(shape: MarkShape, kind: str, text: str, dashes: str = "") -> LegendIcon:
    root = _picture()
    if dashes:
        add(root, "path", d="M0 7H26", class_="s-picture-line", stroke_dasharray=dashes)
    add_mark(root, shape, (13.0, 7.0), kind)
    return LegendIcon(picture_markup(root), text)


def _split_icon(line: SplitLine) -> LegendIcon:
    root = _picture()
    colour = line_of(line.index)
    paint(add(root, "path", d="M0 7H26", stroke_width=2), stroke=colour)
    paint(add_mark(root, "circle", (13.0, 7.0), ""), fill=colour)
    return LegendIcon(picture_markup(root), f"{line.letter}: {line.name}")


def _interval_icon() -> LegendIcon:
    root = _picture()
    add(root, "path", d="M13 0V14", class_="s-interval")
    return LegendIcon(picture_markup(root), "95% interval")


def _unsplit_icon(quality: str) -> LegendIcon:
    root = _picture()
    add(root, "path", d="M0 7H26", class_="s-unsplit")
    return LegendIcon(picture_markup(root), f"unsplit: 100% {quality}")
