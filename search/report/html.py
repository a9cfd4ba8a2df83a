"""OUT/report.html: the requirement of a run, its result and how it was reached, on one page.

The file contains everything: it opens without a network, and its content policy forbids requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from search.metrics.registry import METRICS
from search.report.charts.front import front_chart, front_legend
from search.report.charts.rank_agreement import agreement_chart
from search.report.html_tables import candidate_table, heat_maps
from search.report.next_steps import RunPaths, next_steps
from search.report.page_parts import (
    content_policy,
    picture_markup,
    read_template,
    report_template,
)
from search.report.plan_diagram.drawing import (
    NARROW,
    PLAN_PICTURE,
    WIDE,
    describe_share,
    draw_plan,
    plan_svg,
)
from search.report.plan_diagram.palette import style
from search.report.rejected import (
    SearchTrace,
    count_reasons,
    dissimilar_shares,
    plans_not_chosen,
    unverified_plans,
)
from search.report.summary import headline, headline_numbers
from search.results.kept_quality import readable_quality
from search.results.refinement import describe_refinement
from search.results.search_result import PlanRecord, Result
from search.utils.files import write_text
from search.utils.format import as_sentence, megabytes, percent
from spaces.plan import Share, SharePlan

REPORT = "report.html"
STYLES = ("colours.css", "chart.css", "report.css")
MOST_LISTED = 12
"""Number of shares under the floor that are listed; the others are only counted."""


@dataclass(frozen=True)
class AgreementFigure:
    """One verification stage against a later one."""

    title: str
    rho: str
    plans: str
    """How many plans were compared."""
    picture: Markup | None
    """None if there are fewer than two points, or if the quality kept means nothing."""


@dataclass(frozen=True)
class PlanFigure:
    """A plan drawn for a screen and for a phone, and described in words."""

    hash: str
    caption: str
    wide: Markup
    narrow: Markup
    shares: tuple[str, ...]
    details: tuple[str, ...] = ()
    """Sentences on the precisions, if the result has plans with precisions, and on the maps."""


def write_report(result: Result, trace: SearchTrace, paths: RunPaths, out: Path) -> None:
    """Write OUT/report.html and OUT/plan.svg; each file is replaced atomically.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    write_text(out / PLAN_PICTURE, plan_svg(result, result.chosen_candidate, trace.similarity))
    write_text(out / REPORT, render_page(result, trace, paths))


def render_page(result: Result, trace: SearchTrace, paths: RunPaths) -> str:
    """Return the page. The template escapes all text but the pictures, which are escaped here."""
    css = "\n".join((style(), *map(read_template, STYLES)))
    script = read_template("report.js")
    return report_template(REPORT).render(
        policy=content_policy(css, script),
        style=Markup(css),
        script=Markup(script),
        result=result,
        headline=headline(result),
        numbers=headline_numbers(result),
        front=picture_markup(front_chart(result)),
        legend=front_legend(result),
        plan=_plan_figure(result, result.chosen_candidate, trace.similarity),
        others=_other_plans(result, trace.similarity),
        table=candidate_table(result),
        refinements=[as_sentence(describe_refinement(r)) for r in result.refinements],
        heat_maps=heat_maps(result, trace.similarity),
        metric=METRICS[result.metric].label,
        agreement=_agreement_figures(result, trace),
        rejected=_rejected(result, trace),
        facts=_facts(result),
        config=yaml.safe_dump(result.config, sort_keys=False),
        steps=next_steps(result, paths),
    )


def _plan_figure(
    result: Result, record: PlanRecord | None, similarity: Mapping[Share, float]
) -> PlanFigure:
    wide, narrow = (
        picture_markup(draw_plan(result, record, similarity, width)) for width in (WIDE, NARROW)
    )
    if record is None:
        size = megabytes(result.unmerged_bytes)
        return PlanFigure("", f"The unmerged models, {size}", wide, narrow, ())
    caption = f"{megabytes(record.bytes)}, {record.saved_pct:.1f}% less than unmerged"
    shares = tuple(
        describe_share(share, similarity.get(share))
        for share in SharePlan.from_dict(record.plan).shares
    )
    return PlanFigure(record.hash, caption, wide, narrow, shares, _details(result, record))


def _details(result: Result, record: PlanRecord) -> tuple[str, ...]:
    weights = record.precision_text or f"weights in {result.dtype}"
    texts = (weights if result.has_precisions else "", record.refinement_text)
    return tuple(as_sentence(text) for text in texts if text)


def _other_plans(result: Result, similarity: Mapping[Share, float]) -> list[PlanFigure]:
    """Return the candidates that were not chosen, by rising bytes."""
    records = sorted(result.candidates, key=lambda c: c.bytes)
    return [_plan_figure(result, c, similarity) for c in records if c.hash != result.chosen]


def _agreement_figures(result: Result, trace: SearchTrace) -> list[AgreementFigure]:
    """Compare proxy and fidelity over the shortlist, and both with quality over the candidates."""
    candidates = result.candidates
    shortlist = [(p.proxy, p.fidelity) for p in trace.shortlist]
    return [
        _agreement_figure("proxy", "fidelity", shortlist,
                          result.rank_agreement.get("shortlist_proxy_fidelity")),
        _without_noise(result, _agreement_figure(
            "proxy", "quality kept", [(c.proxy, c.quality_kept) for c in candidates],
            result.rank_agreement["proxy_truth"])),
        _without_noise(result, _agreement_figure(
            "fidelity", "quality kept", [(c.mean_fidelity, c.quality_kept) for c in candidates],
            result.rank_agreement["fidelity_truth"])),
    ]  # fmt: skip


def _without_noise(result: Result, figure: AgreementFigure) -> AgreementFigure:
    """Return the figure without its picture if the quality kept, its axis, means nothing."""
    return replace(figure, picture=readable_quality(figure.picture, result.at_chance))


def _agreement_figure(
    across: str, up: str, pairs: Sequence[tuple[float | None, float | None]], rho: float | None
) -> AgreementFigure:
    points = [(x, y) for x, y in pairs if x is not None and y is not None]
    key = f"{across}-{up}".replace(" ", "-")
    picture = None
    if len(points) > 1:
        picture = picture_markup(agreement_chart(key, (across, up), points, rho))
    rho_text = "not defined" if rho is None else f"{rho:z.2f}"
    plans = "1 plan" if len(points) == 1 else f"{len(points)} plans"
    return AgreementFigure(f"{across.capitalize()} and {up}", rho_text, plans, picture)


def _rejected(result: Result, trace: SearchTrace) -> dict[str, Any]:
    """Return the rejected pairs of stages, shares and plans, with counts and reasons."""
    floor = float(result.config["search"]["floor"])
    dissimilar = dissimilar_shares(trace, floor)
    trials = result.study["trials"]
    return {
        "all_pairs": len(trace.rejected) + trace.legal,
        "pairs": len(trace.rejected),
        "reasons": count_reasons(trace.rejected.values()),
        "floor": f"{floor:g}",
        "all_shares": len(trace.similarity),
        "shares": len(dissimilar),
        "listed_shares": [f"{share} {value:z.2f}" for share, value in dissimilar[:MOST_LISTED]],
        "trials": trials,
        "infeasible": trials - trace.feasible,
        "dominated": trace.feasible - len(result.front),
        "front": len(result.front),
        "shortlist": len(trace.shortlist),
        "unverified": [
            (p.hash, megabytes(p.bytes), f"{p.proxy:.3f}", percent(p.fidelity), why)
            for p, why in unverified_plans(trace, result)
        ],
        "not_chosen": plans_not_chosen(result),
    }


def _facts(result: Result) -> list[tuple[str, str]]:
    study = result.study
    seconds = ", ".join(f"{step} {spent:.1f}" for step, spent in result.seconds.items())
    return [
        ("created", result.created),
        ("unlabelled frames", f"{result.frames['count']} (hash {result.frames['hash']})"),
        ("metric", METRICS[result.metric].label),
        ("search", f"{study['trials']:,} plans evaluated of {study['space']:,} combinations, "
                   f"sampler {study['sampler']}, seed {result.seed}"),
        ("minimised", ", ".join(study["objectives"])),
        *([("frames a second", result.rates_text)] if result.rates else []),
        ("smallest reachable", megabytes(result.smallest_bytes)),
        ("seconds", seconds),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
    ]  # fmt: skip
