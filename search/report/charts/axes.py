"""An empty SVG chart with two axes, and the marks that go into it.

Every mark has a class; `chart.css` gives it its colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from search.report.svg import PictureText, add, new_picture

LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 14.0, 40.0
"""Margins around the plot, for the numbers and names of the axes."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Leading digits of a round distance between two ticks."""
DIGITS = ((1, 2, 5), (1, 3), (1,))
"""Leading digits of the ticks of a logarithmic axis, from many ticks to few."""


@dataclass(frozen=True)
class Axis:
    """A linear scale that maps values from `low` to `high` to positions from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def covering(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """Return an axis that covers the values with some room at both ends."""
        low, high = min(values), max(values)
        margin = 0.1 * (high - low) or 0.05 * max(abs(high), 1e-3)
        return cls(low - margin, high + margin, start, end)

    def position(self, value: float) -> float:
        fraction = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * fraction

    def ticks(self, most: int) -> list[float]:
        """Return round values on the axis, at most `most` steps apart from end to end."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in STEPS if s * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class LogAxis(Axis):
    """A logarithmic scale; values of 0 and below lie at its start."""

    @classmethod
    def covering(cls, values: Sequence[float], start: float, end: float) -> LogAxis:
        """Return an axis that covers the values above 0 with some room at both ends."""
        positive = [value for value in values if value > 0] or [1.0]
        low, high = min(positive), max(positive)
        margin = max(1.15, (high / low) ** 0.08)
        return cls(low / margin, high * margin, start, end)

    def position(self, value: float) -> float:
        if value <= 0:
            return self.start
        fraction = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + (self.end - self.start) * fraction

    def ticks(self, most: int) -> list[float]:
        """Return powers of ten and round values between them, as many as there is room for."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
        for digits in DIGITS:
            values = [digit * 10.0**power for power in powers for digit in digits]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= most + 1:
                break
        return inside if len(inside) > 1 else super().ticks(most)


@dataclass(frozen=True)
class Quantity:
    """The quantity on an axis."""

    name: str
    values: Sequence[float]
    """The values that the axis must cover."""
    format: Callable[[float], str]
    """How a tick is labelled."""
    scale: type[Axis] = Axis
    """The kind of its axis."""


@dataclass(frozen=True)
class Chart:
    """A picture with two axes."""

    root: ET.Element
    x: Axis
    y: Axis

    @classmethod
    def empty(
        cls, words: PictureText, across: Quantity, up: Quantity, size: tuple[float, float]
    ) -> Chart:
        """Draw the axes and their ticks on a picture of that width and height."""
        width, height = size
        root = new_picture(width, height, words)
        root.set("class", "chart")
        base = height - BOTTOM
        x = across.scale.covering(across.values, LEFT, width - RIGHT)
        y = up.scale.covering(up.values, base, TOP)
        chart = cls(root, x, y)
        for tick in y.ticks(5):
            chart.horizontal_line(tick, "c-grid")
            chart.text(up.format(tick), (LEFT - 6, y.position(tick) + 4), "end", "c-tick")
        for tick in x.ticks(5):
            chart.text(across.format(tick), (x.position(tick), base + 17), "middle", "c-tick")
        chart.horizontal_line(y.low, "c-axis")
        chart.text(across.name, (x.end, base + 34), "end", "c-name")
        chart.text(up.name, (x.start + 6, y.end + 4), "start", "c-name")
        return chart

    def within(self, parent: ET.Element) -> Chart:
        """Return a chart on the same axes that draws into `parent`."""
        return Chart(parent, self.x, self.y)

    def point(
        self, x: float, y: float, kind: str, hint: str = "", radius: float = 4.0
    ) -> ET.Element:
        """Draw a dot; a browser shows `hint` when the pointer rests on it."""
        place = (self.x.position(x), self.y.position(y))
        mark = add(self.root, "circle", cx=place[0], cy=place[1], r=radius, class_=kind)
        if hint:
            add(mark, "title", hint)
        return mark

    def polyline(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        path = " ".join(f"{self.x.position(x):.2f},{self.y.position(y):.2f}" for x, y in points)
        add(self.root, "polyline", points=path, class_=kind)

    def vertical_line(self, x: float, low: float, high: float, kind: str) -> None:
        at = self.x.position(x)
        add(self.root, "line", x1=at, x2=at, y1=self.y.position(low), y2=self.y.position(high),
            class_=kind)  # fmt: skip

    def horizontal_line(self, y: float, kind: str) -> None:
        at = self.y.position(y)
        add(self.root, "line", x1=self.x.start, x2=self.x.end, y1=at, y2=at, class_=kind)

    def text(self, text: str, at: tuple[float, float], anchor: str, kind: str) -> None:
        add(self.root, "text", text, x=at[0], y=at[1], text_anchor=anchor, class_=kind)


def format_number(value: float) -> str:
    return f"{value:.4g}"


def format_percent(value: float) -> str:
    return f"{100 * value:.3g}%"
