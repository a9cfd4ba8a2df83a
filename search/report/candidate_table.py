"""The verified candidates as tables on the console."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from search.report.score_text import interval_text, score_name, score_text
from search.results.kept_quality import kept_interval_text, kept_text
from search.results.measured import find_measurement, measured_places, measured_texts
from search.results.search_result import CandidateRecord, VerifiedCandidates, verified_front
from search.study.problem import Cost
from search.utils.format import MEGABYTE, percent
from search.utils.reporter import Reporter
from spaces.plan import SharePlan

Cells = tuple[list[str], list[list[str]]]
"""A header, and rows."""


def print_candidates(
    verified: VerifiedCandidates,
    unmerged_bytes: int,
    chosen: str | None,
    title: str,
    reporter: Reporter,
) -> None:
    """Print the candidates by rising bytes, their intervals, shares and precisions.

    The plan with the hash `chosen` is marked with a star.
    """
    ordered = replace(verified, candidates=sorted(verified.candidates, key=lambda c: c.bytes))
    title = f"{title} (* chosen, + on the verified front)"
    reporter.table(title, *_candidate_cells(ordered, unmerged_bytes, chosen))
    reporter.say("")
    if ordered.baseline:
        reporter.table("95% intervals over the labelled frames", *_interval_cells(ordered))
        reporter.say("")
    for c in ordered.candidates:
        lines = [str(share) for share in SharePlan.from_dict(c.plan).shares]
        lines += [text for text in (c.precision_text, c.refinement_text) if text]
        if c.significance_by_model:
            by_model = ", ".join(
                f"{name} {significance}" for name, significance in c.significance_by_model.items()
            )
            lines.append(f"against unmerged: {by_model}")
        reporter.say(f"{c.hash}:  " + "\n               ".join(lines))


def units_besides_bytes(candidates: Sequence[CandidateRecord]) -> dict[Cost, str]:
    """Return the other costs of the candidates, with their units."""
    return {name: c.cost_units[name] for c in candidates for name in c.costs_besides_bytes}


def _candidate_cells(
    verified: VerifiedCandidates, unmerged_bytes: int, chosen: str | None
) -> Cells:
    baseline, candidates = verified.baseline, verified.candidates
    units = units_besides_bytes(candidates)
    header = ["plan", "MB", "saved", "kept", "proxy", "fidelity"]
    header += [f"{name} {unit}" for name, unit in units.items()]
    header += [f"{name} {score_name(scores)}" for name, scores in baseline.items()]
    places = measured_places(verified.measured)
    header += [f"{number} on {place}" for place in places for number in ("ms", "resident MB")]
    full = f"{unmerged_bytes / MEGABYTE:.2f}"
    rows = [
        ["unmerged", full, "0.0%", kept_text(1.0, verified.at_chance), "1.000", "100.0%",
         *("" for _ in units),
         *(score_text(scores) for scores in baseline.values()),
         *("" for _ in places for _ in range(2))]
    ]  # fmt: skip
    front = verified_front(candidates)
    for c in candidates:
        mark = ("*" if c.hash == chosen else "") + ("+" if c.hash in front else "")
        rows.append(
            [f"{c.hash} {mark}", f"{c.bytes / MEGABYTE:.2f}", f"{c.saved_pct:.1f}%",
             kept_text(c.quality_kept, verified.at_chance), f"{c.proxy:.3f}",
             percent(c.mean_fidelity),
             *(f"{c.costs_besides_bytes[name]:.2f}" for name in units),
             *(score_text(c.accuracy[name]) for name in baseline),
             *(text for place in places
               for text in measured_texts(find_measurement(verified.measured, c.hash, place)))]
        )  # fmt: skip
    return header, rows


def _interval_cells(verified: VerifiedCandidates) -> Cells:
    baseline = verified.baseline
    scores = [f"{name} {score_name(scores)}" for name, scores in baseline.items()]
    rows = [["unmerged", "", *map(interval_text, verified.intervals.values())]]
    for c in verified.candidates:
        kept = kept_interval_text(c.quality_interval, verified.at_chance)
        rows.append([c.hash, kept, *map(interval_text, c.intervals.values())])
    return ["plan", "kept", *scores], rows
