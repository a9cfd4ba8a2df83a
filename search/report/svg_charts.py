"""Charts of a run as SVG: quality against bytes, and one rung of the ladder against the next.

Their colours and letters are the page's: each part has a class, and `report.css` says the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from search.report.svg import Words, add, picture
from search.results.search_result import CandidateRecord, Result
from search.utils.format import MEGABYTE, megabytes, percent, percents

LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 14.0, 40.0
"""Room around the plot for its numbers and names."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""What a round distance between two ticks may begin with."""


@dataclass(frozen=True)
class Quantity:
    """What an axis shows: its name, the numbers on it, and how one is written."""

    name: str
    values: Sequence[float]
    write: Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high` along a stretch from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, quantity: Quantity, start: float, end: float) -> Axis:
        """A little more than from the least to the greatest."""
        low, high = min(quantity.values), max(quantity.values)
        more = 0.1 * (high - low) or 0.05 * max(abs(high), 1e-3)
        return cls(low - more, high + more, start, end)

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * part

    def ticks(self, most: int) -> list[float]:
        """Round numbers within it, at most so many."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in STEPS if s * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Plot:
    """An empty chart: its picture and its two axes."""

    root: ET.Element
    x: Axis
    y: Axis

    def point(self, x: float, y: float, kind: str, hint: str) -> None:
        mark = add(self.root, "circle", cx=self.x(x), cy=self.y(y), r=4.0, class_=kind)
        add(mark, "title", hint)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        path = " ".join(f"{self.x(x):.2f},{self.y(y):.2f}" for x, y in points)
        add(self.root, "polyline", points=path, class_=kind)

    def upright(self, x: float, low: float, high: float, kind: str) -> None:
        at = self.x(x)
        add(self.root, "line", x1=at, x2=at, y1=self.y(low), y2=self.y(high), class_=kind)

    def level(self, y: float, kind: str) -> None:
        at = self.y(y)
        add(self.root, "line", x1=self.x.start, x2=self.x.end, y1=at, y2=at, class_=kind)


def front_chart(result: Result) -> ET.Element:
    """Bytes held against quality kept: predicted front, verified candidates, what was asked."""
    found = _measured(result)
    plot = _empty(
        _front_words(result, found),
        Quantity("MB held", [n / MEGABYTE for n in _sizes(result, found)], _rounded),
        Quantity(
            "quality kept" if _judged(result) else "fidelity",
            [*_qualities(result, found), 1.0, *_floor(result)],
            _percent,
        ),
        (460.0, 320.0),
    )
    _ask(plot, result)
    _draw_predicted(plot, sorted((r.bytes / MEGABYTE, r.proxy) for r in result.front))
    plot.point(result.unmerged_bytes / MEGABYTE, 1.0, "c-unmerged",
               f"unmerged: {megabytes(result.unmerged_bytes)}, 100%")  # fmt: skip
    _draw_found(plot, result, found)
    return plot.root


def rung_chart(
    key: str, names: tuple[str, str], points: Sequence[tuple[float, float]], rho: float | None
) -> ET.Element:
    """One rung of the ladder (across) against a later one (up), a point for each plan."""
    told = "not defined" if rho is None else f"{rho:z.2f}"
    words = Words(
        f"rung-{key}",
        f"{names[0]} against {names[1]}",
        f"{len(points)} plans; rank correlation {told}. "
        + " ".join(f"{percent(x)} and {percent(y)}." for x, y in sorted(points)),
    )
    across, up = (
        Quantity(name, [point[side] for point in points], _percent)
        for side, name in enumerate(names)
    )
    plot = _empty(words, across, up, (380.0, 240.0))
    for x, y in points:
        plot.point(x, y, "c-verified", f"{names[0]} {percent(x)}, {names[1]} {percent(y)}")
    return plot.root


def _judged(result: Result) -> bool:
    """Whether ground truth was there to judge by."""
    return bool(result.baseline)


def _measured(result: Result) -> list[tuple[CandidateRecord, float]]:
    """The candidates by rising bytes with what they are judged by, as far as it is known."""
    known = [
        (c, c.quality_kept if _judged(result) else c.mean_fidelity) for c in result.candidates
    ]
    return sorted(((c, q) for c, q in known if q is not None), key=lambda pair: pair[0].bytes)


def _sizes(result: Result, found: list[tuple[CandidateRecord, float]]) -> list[int]:
    """What the chart spans: the verified plans, what was asked, and the unmerged models."""
    asked = [] if result.budget_bytes is None else [result.budget_bytes]
    records = [c for c, _ in found] or result.front
    return [*(r.bytes for r in records), result.unmerged_bytes, *asked]


def _qualities(result: Result, found: list[tuple[CandidateRecord, float]]) -> list[float]:
    if not found:
        return [r.proxy for r in result.front]
    ends = [end for c, _ in found for end in c.quality_interval or ()]
    return [*(quality for _, quality in found), *ends]


def _draw_predicted(plot: Plot, predicted: Sequence[tuple[float, float]]) -> None:
    """The proxy's front, as far as it passes the plot."""
    clip = add(plot.root, "clipPath", id="front-plot")
    add(clip, "rect", x=plot.x.start, y=plot.y.end, width=plot.x.end - plot.x.start,
        height=plot.y.start - plot.y.end)  # fmt: skip
    part = Plot(add(plot.root, "g", clip_path="url(#front-plot)"), plot.x, plot.y)
    part.line(predicted, "c-predicted")
    for at, proxy in predicted:
        add(part.root, "circle", cx=plot.x(at), cy=plot.y(proxy), r=2.0, class_="c-guess")


def _floor(result: Result) -> list[float]:
    return [] if result.quality_floor is None else [result.quality_floor]


def _draw_found(plot: Plot, result: Result, found: list[tuple[CandidateRecord, float]]) -> None:
    steps = [(c.bytes / MEGABYTE, q) for c, q in found if c.hash in result.verified_front]
    plot.line(steps, "c-front")
    foremost = (*result.verified_front, result.chosen)
    for c, quality in sorted(found, key=lambda pair: pair[0].hash in foremost):
        at = c.bytes / MEGABYTE
        sure = ""
        if c.quality_interval is not None:
            low, high = c.quality_interval
            plot.upright(at, low, high, "c-interval")
            sure = f" ({percents(c.quality_interval)})"
        if c.hash == result.chosen:
            add(plot.root, "circle", cx=plot.x(at), cy=plot.y(quality), r=9.0, class_="c-chosen")
        kind = "c-verified" if c.hash in result.verified_front or not steps else "c-behind"
        plot.point(at, quality, kind,
                   f"{c.hash}: {megabytes(c.bytes)}, {percent(quality)}{sure}")  # fmt: skip


def _ask(plot: Plot, result: Result) -> None:
    """The budget as an upright line, or the quality to keep as a level one."""
    if result.budget_bytes is not None:
        at = result.budget_bytes / MEGABYTE
        plot.upright(at, plot.y.low, plot.y.high, "c-limit")
        left = plot.x(at) > (plot.x.start + plot.x.end) / 2
        place = (plot.x(at) + (-6 if left else 6), plot.y.start - 8)
        name = f"budget {megabytes(result.budget_bytes)}"
        _write(plot.root, name, place, "end" if left else "start", "c-limit-name")
    if result.quality_floor is not None:
        plot.level(result.quality_floor, "c-limit")
        name = f"every model keeps {percent(result.quality_floor)}"
        place = (plot.x.end - 4, plot.y(result.quality_floor) + 15)
        _write(plot.root, name, place, "end", "c-limit-name")


def _front_words(result: Result, found: list[tuple[CandidateRecord, float]]) -> Words:
    judged = "quality kept" if _judged(result) else "fidelity"
    told = [
        f"{c.hash} holds {megabytes(c.bytes)} at {percent(quality)}"
        + (", on the verified front" if c.hash in result.verified_front else "")
        + (", chosen" if c.hash == result.chosen else "")
        for c, quality in found
    ]
    asked = (
        f"The budget is {megabytes(result.budget_bytes)}."
        if result.budget_bytes is not None
        else f"Every model is to keep {percent(result.quality_floor)}."
    )
    unmerged = f"Unmerged {megabytes(result.unmerged_bytes)} at 100%."
    return Words("front", f"Bytes held against {judged}", f"{asked} {unmerged} {'; '.join(told)}.")


def _empty(words: Words, across: Quantity, up: Quantity, size: tuple[float, float]) -> Plot:
    width, height = size
    root = picture(width, height, words)
    root.set("class", "chart")
    floor = height - BOTTOM
    x, y = Axis.of(across, LEFT, width - RIGHT), Axis.of(up, floor, TOP)
    plot = Plot(root, x, y)
    for tick in y.ticks(5):
        plot.level(tick, "c-grid")
        _write(root, up.write(tick), (LEFT - 6, y(tick) + 4), "end", "c-tick")
    for tick in x.ticks(5):
        _write(root, across.write(tick), (x(tick), floor + 17), "middle", "c-tick")
    plot.level(y.low, "c-axis")
    _write(root, across.name, (x.end, floor + 34), "end", "c-name")
    _write(root, up.name, (x.start + 6, y.end + 4), "start", "c-name")
    return plot


def _write(root: ET.Element, text: str, at: tuple[float, float], anchor: str, kind: str) -> None:
    add(root, "text", text, x=at[0], y=at[1], text_anchor=anchor, class_=kind)


def _rounded(value: float) -> str:
    return f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"
