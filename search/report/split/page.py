"""OUT/split/split.html: the outcome of `merge-search split` on one page, and its pictures.

The file contains everything: it opens without a network, and its content policy forbids requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import yaml
from markupsafe import Markup

from search.report.charts.front import chart_style
from search.report.page_parts import (
    content_policy,
    picture_markup,
    read_template,
    report_template,
)
from search.report.plan_diagram.palette import style
from search.report.split import device_chart as chart_of_device
from search.report.split import diagram, rate_chart
from search.report.split.headline import split_comparisons, split_headline, split_numbers
from search.report.split.marks import rate_legend
from search.report.split.series import split_lines
from search.report.split.sides import SplitSides
from search.report.split.tables import baseline_table, point_table
from search.report.split.texts import has_quality, shown_quality_name
from search.report.svg import add, standalone_text
from search.results.search_result import RankAgreement
from search.results.split_result import SplitPointRecord, SplitResult
from search.utils.files import write_text
from search.utils.format import MEGABYTE, list_names, megabytes
from spaces.split.split import Split

SPLIT_PAGE = "split.html"
SPLIT_PICTURE, RATE_PICTURE = "split.svg", "rates.svg"
SPLIT_STYLES = ("colours.css", "chart.css", "report.css", "split.css")
Size = tuple[float, float]


@dataclass(frozen=True)
class TwoSizes:
    """A picture for a screen and for a phone."""

    wide: Markup
    narrow: Markup


def write_split_page(result: SplitResult, folder: Path) -> None:
    """Write split.html, rates.svg and split.svg into a folder; each is replaced atomically.

    Without a verified point there is no split.svg.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    write_text(folder / RATE_PICTURE, rate_svg(result))
    point = drawn_point(result)
    if point is not None:
        write_text(folder / SPLIT_PICTURE, diagram.split_diagram_svg(result, point))
    write_text(folder / SPLIT_PAGE, render_split_page(result))


def render_split_page(result: SplitResult) -> str:
    """Return the page. The template escapes all text but the pictures, which are escaped here."""
    css = "\n".join((style(), *map(read_template, SPLIT_STYLES)))
    script = read_template("report.js")
    point = drawn_point(result)
    return report_template(SPLIT_PAGE).render(
        policy=content_policy(css, script),
        style=Markup(css),
        script=Markup(script),
        result=result,
        headline=split_headline(result),
        numbers=split_numbers(result),
        comparisons=split_comparisons(result),
        quality=shown_quality_name(result),
        labelled=has_quality(result),
        rates=_two_sizes(lambda size: rate_chart.rate_chart(result, size)),
        legend=rate_legend(result, split_lines(result)),
        hidden=rate_chart.hidden_codings(result),
        point=point,
        drawing=_drawing(result, point),
        crossing=_crossing(result, point),
        device=_two_sizes(lambda size: chart_of_device.device_chart(result, size)),
        levels=chart_of_device.quality_levels(result),
        points=point_table(result),
        baselines=baseline_table(result),
        facts=split_facts(result),
        config=yaml.safe_dump(result.config, sort_keys=False),
    )


def drawn_point(result: SplitResult) -> SplitPointRecord | None:
    """Return the point whose network is drawn: the chosen one, else the verified one that is
    quickest."""
    quickest = min(result.points, key=lambda point: point.times.total_ms, default=None)
    return result.chosen_point or quickest


def rate_svg(result: SplitResult) -> str:
    """Return the chart of bytes against quality as an SVG file with its own style."""
    root = rate_chart.rate_chart(result)
    width, height = rate_chart.WIDE_CHART
    root.set("width", f"{width:g}")
    root.set("height", f"{height:g}")
    css = ET.Element("style")
    css.text = "\n".join((style(), chart_style(), read_template("split.css")))
    root.insert(2, css)  # behind title and description
    root.insert(3, add(ET.Element("g"), "rect", width="100%", height="100%", class_="c-paper"))
    return standalone_text(root)


def split_facts(result: SplitResult) -> list[tuple[str, str]]:
    """Return the conditions of the split and the sizes of its study, by name."""
    link, unsplit, study = result.link, result.unsplit, result.study
    seconds = ", ".join(f"{step} {spent:.1f}" for step, spent in result.seconds.items())
    facts = [
        ("created", result.created),
        ("link", f"{link.mbit:g} Mbit/s, {link.rtt_ms:g} ms round trip, {link.loss:.1%} loss"),
        ("device", f"{link.device_speed:g} times as fast as the machine that timed the stages; "
                   f"{_limits(result)}"),
        ("server", f"{link.server_speed:g} times as fast as that machine"),
        ("deadline", "none" if link.deadline_ms is None else f"{link.deadline_ms:g} ms"),
        ("models unsplit", f"{megabytes(unsplit.bytes)} of weights, "
                           f"{unsplit.macs / 1e6:,.0f} M MACs per frame"),
        ("study", f"{study['trials']:,} points looked up of {study['space']:,}, in "
                  f"{study['splits']} splits; sampler {study['sampler']}, seed {result.seed}"),
        ("rank agreement", _agreement(result.rank_agreement)),
        ("unlabelled frames", f"{result.frames['count']} (hash {result.frames['hash']})"),
        *((f"labels of {name}", f"{data['count']} frames (hash {data['hash']})")
          for name, data in result.truth.items()),
        ("seconds", seconds),
        ("versions", ", ".join(f"{name} {number}" for name, number in result.versions.items())),
    ]  # fmt: skip
    return facts


def _limits(result: SplitResult) -> str:
    link = result.link
    memory = "any memory" if link.memory is None else f"at most {link.memory / MEGABYTE:g} MB held"
    macs = "any MACs" if link.macs is None else f"at most {link.macs / 1e6:,.0f} M MACs per frame"
    return list_names([memory, macs])


def _agreement(agreement: RankAgreement) -> str:
    names = {
        "proxy_truth": "predicted distortion and quality kept",
        "proxy_fidelity": "predicted distortion and fidelity",
        "bytes": "predicted and real bytes",
    }
    return "; ".join(
        f"{names.get(name, name)} {'not defined' if rho is None else f'{rho:z.2f}'}"
        for name, rho in agreement.items()
    )


def _two_sizes(draw: Callable[[Size], ET.Element]) -> TwoSizes:
    wide, narrow = (
        picture_markup(draw(s)) for s in (rate_chart.WIDE_CHART, rate_chart.NARROW_CHART)
    )
    return TwoSizes(wide, narrow)


def _drawing(result: SplitResult, point: SplitPointRecord | None) -> TwoSizes | None:
    if point is None:
        return None
    wide, narrow = (
        picture_markup(diagram.split_diagram(result, point, width))
        for width in (diagram.WIDE_DRAWING, diagram.NARROW_DRAWING)
    )
    return TwoSizes(wide, narrow)


def _crossing(result: SplitResult, point: SplitPointRecord | None) -> list[str]:
    if point is None:
        return []
    sides = SplitSides.of(result.models, Split.from_dict(point.split))
    return diagram.describe_crossing(result, sides)
