"""The chart of one verification stage against a later one, a point for each plan."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from search.report.charts.axes import Chart, Quantity, format_percent
from search.report.svg import PictureText
from search.utils.format import percent

AGREEMENT_SIZE = (380.0, 240.0)


def agreement_chart(
    key: str, names: tuple[str, str], points: Sequence[tuple[float, float]], rho: float | None
) -> ET.Element:
    """Draw the values of the earlier stage across and of the later stage up.

    `key` names the picture within its page. `rho` is the rank correlation, None if undefined.
    """
    agreement = "not defined" if rho is None else f"{rho:z.2f}"
    words = PictureText(
        f"agreement-{key}",
        f"{names[0]} against {names[1]}",
        f"{len(points)} plans; rank agreement {agreement}. "
        + " ".join(f"{percent(x)} and {percent(y)}." for x, y in sorted(points)),
    )
    across, up = (
        Quantity(name, [point[side] for point in points], format_percent)
        for side, name in enumerate(names)
    )
    chart = Chart.empty(words, across, up, AGREEMENT_SIZE)
    for x, y in points:
        hint = f"{names[0]} {percent(x)}, {names[1]} {percent(y)}"
        chart.point(x, y, "c-verified", hint)
    return chart.root
