"""OUT/report.html: what a run was asked, what it found and how, on one page of its own.

Everything is in the file: it opens without a network, and its policy forbids it to ask for more.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from search.metrics.registry import METRICS
from search.report.html_tables import candidate_table, heat_maps
from search.report.next_steps import Places, next_steps
from search.report.plan_diagram.drawing import (
    NARROW,
    PLAN_PICTURE,
    WIDE,
    draw_plan,
    in_words,
    standing_alone,
)
from search.report.plan_diagram.palette import style
from search.report.rejected import SearchTrace, not_chosen, reasons, under_floor, unverified
from search.report.summary import numbers, sentence
from search.report.svg import to_text
from search.report.svg_charts import front_chart, rung_chart
from search.results.search_result import PlanRecord, Result
from search.utils.files import write_text
from search.utils.format import megabytes, percent
from spaces.plan import Share, SharePlan

REPORT = "report.html"
TEMPLATES = "templates"
MOST_LISTED = 12
"""Shares under the floor that are named; the others are counted."""


@dataclass(frozen=True)
class RungFigure:
    """One rung of the ladder against a later one."""

    title: str
    rho: str
    over: str
    picture: Markup | None
    """None where there are not two points."""


@dataclass(frozen=True)
class PlanFigure:
    """A plan drawn for a screen and for a phone, and its shares in words."""

    hash: str
    caption: str
    wide: Markup
    narrow: Markup
    shares: tuple[str, ...]
    chosen: bool


def write_report(result: Result, tried: SearchTrace, places: Places, out: Path) -> None:
    """OUT/report.html and OUT/plan.svg, each wholly or not at all.

    Raises:
        CannotWrite: the folder does not take them.
    """
    write_text(
        out / PLAN_PICTURE, standing_alone(result, result.chosen_candidate, tried.similarity)
    )
    write_text(out / REPORT, page(result, tried, places))


def page(result: Result, tried: SearchTrace, places: Places) -> str:
    """The whole page. The template escapes all text; only what is drawn here is taken as it is."""
    parts = Environment(
        loader=PackageLoader("search.report", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    look, script = f"{style()}\n{_part('report.css')}", _part("report.js")
    return parts.get_template(REPORT).render(
        policy=_policy(look, script),
        style=Markup(look),
        script=Markup(script),
        result=result,
        sentence=sentence(result),
        numbers=numbers(result),
        front=_markup(front_chart(result)),
        plan=_plan_figure(result, result.chosen_candidate, tried.similarity),
        others=_others(result, tried.similarity),
        table=candidate_table(result),
        heat_maps=heat_maps(result, tried.similarity),
        metric=METRICS[result.metric].label,
        rungs=_rungs(result, tried),
        left=_left(result, tried),
        facts=_facts(result),
        config=yaml.safe_dump(result.config, sort_keys=False),
        steps=next_steps(result, places),
    )


def _part(name: str) -> str:
    return files("search.report").joinpath(TEMPLATES, name).read_text(encoding="utf-8")


def _markup(element: Any) -> Markup:
    return Markup(to_text(element))


def _policy(look: str, script: str) -> str:
    """What a browser lets the page do: its own style and script, and nothing else at all."""
    return (
        f"default-src 'none'; style-src {_source(look)}; script-src {_source(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _source(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _plan_figure(
    result: Result, record: PlanRecord | None, similarity: Mapping[Share, float]
) -> PlanFigure:
    wide, narrow = (
        _markup(draw_plan(result, record, similarity, width)) for width in (WIDE, NARROW)
    )
    if record is None:
        held = megabytes(result.unmerged_bytes)
        return PlanFigure("", f"The models unmerged, {held}", wide, narrow, (), False)
    caption = f"{megabytes(record.bytes)}, {record.saved_pct:.1f}% less than unmerged"
    shares = tuple(
        in_words(share, similarity.get(share)) for share in SharePlan.from_dict(record.plan).shares
    )
    chosen = record.hash == result.chosen
    return PlanFigure(record.hash, caption, wide, narrow, shares, chosen)


def _others(result: Result, similarity: Mapping[Share, float]) -> list[PlanFigure]:
    """The candidates that were not chosen."""
    records = sorted(result.candidates, key=lambda c: c.bytes)
    return [_plan_figure(result, c, similarity) for c in records if c.hash != result.chosen]


def _rungs(result: Result, tried: SearchTrace) -> list[RungFigure]:
    """Proxy to fidelity over the shortlist, and both to ground truth over the candidates."""
    candidates = result.candidates
    listed = [(p.proxy, p.fidelity) for p in tried.shortlist]
    return [
        _rung("proxy", "fidelity", listed, result.rungs.get("shortlist_proxy_fidelity")),
        _rung("proxy", "quality kept", [(c.proxy, c.quality_kept) for c in candidates],
              result.rungs["proxy_truth"]),
        _rung("fidelity", "quality kept", [(c.mean_fidelity, c.quality_kept) for c in candidates],
              result.rungs["fidelity_truth"]),
    ]  # fmt: skip


def _rung(
    across: str, up: str, pairs: Sequence[tuple[float | None, float | None]], rho: float | None
) -> RungFigure:
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    key = f"{across}-{up}".replace(" ", "-")
    picture = _markup(rung_chart(key, (across, up), known, rho)) if len(known) > 1 else None
    told = "not defined" if rho is None else f"{rho:z.2f}"
    plans = "1 plan" if len(known) == 1 else f"{len(known)} plans"
    return RungFigure(f"{across.capitalize()} to {up}", told, plans, picture)


def _left(result: Result, tried: SearchTrace) -> dict[str, Any]:
    """What was tried and rejected, from pairs of stages to candidates."""
    floor = float(result.config["search"]["floor"])
    low = under_floor(tried, floor)
    trials = result.study["trials"]
    return {
        "pairs": len(tried.rejected) + tried.legal,
        "rejected": len(tried.rejected),
        "reasons": reasons(tried.rejected.values()),
        "floor": f"{floor:g}",
        "shares": len(tried.similarity),
        "low": len(low),
        "low_shares": [f"{share} {value:z.2f}" for share, value in low[:MOST_LISTED]],
        "trials": trials,
        "beyond": trials - tried.feasible,
        "beaten": tried.feasible - len(result.front),
        "front": len(result.front),
        "unverified": [
            (p.hash, megabytes(p.bytes), f"{p.proxy:.3f}", percent(p.fidelity), why)
            for p, why in unverified(tried, result)
        ],
        "shortlist": len(tried.shortlist),
        "not_chosen": not_chosen(result),
    }


def _facts(result: Result) -> list[tuple[str, str]]:
    study = result.study
    seconds = ", ".join(f"{part} {spent:.1f}" for part, spent in result.seconds.items())
    return [
        ("made", result.created),
        ("unlabelled frames", f"{result.frames['count']} (hash {result.frames['hash']})"),
        ("guide", METRICS[result.metric].label),
        ("search", f"{study['trials']:,} plans valued of {study['space']:,} combinations, "
                   f"sampler {study['sampler']}, seed {result.seed}"),
        ("made small", ", ".join(study["objectives"])),
        ("smallest reachable", megabytes(result.smallest_bytes)),
        ("seconds", seconds),
        ("versions", ", ".join(f"{name} {number}" for name, number in result.versions.items())),
    ]  # fmt: skip
