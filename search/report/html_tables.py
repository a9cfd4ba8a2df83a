"""Tables of the report as plain cells: candidates, and the similarity of every pair of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.evaluation.per_frame import main_score
from search.report.candidate_table import beside_bytes
from search.report.figures import matrix
from search.report.score_text import interval_text, score_name, score_text
from search.results.search_result import CandidateRecord, Result
from search.study.objectives import UNITS
from search.study.problem import Cost
from search.utils.format import MEGABYTE, percent, percents
from spaces.plan import Share, SharePlan

LEVELS = 10
"""Steps of colour from similarity 0 to 1."""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, what it is sorted by, and what stands below it in small print."""

    text: str
    sort: str = ""
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One candidate, or the unmerged models, which stay above all."""

    plan: Cell
    cells: tuple[Cell, ...]
    marks: tuple[str, ...] = ()
    pinned: bool = False


@dataclass(frozen=True)
class Table:
    """A header, whose first name is that of the plans, and lines."""

    header: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Heat:
    """A cell of a heat map; no level where there is no legal share."""

    text: str
    level: int | None
    shared: bool
    """Whether the chosen plan shares it."""


@dataclass(frozen=True)
class HeatMap:
    """Similarities of one ordered pair of models: donor stages down, recipient stages across."""

    donor: str
    recipient: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]


def candidate_table(result: Result) -> Table:
    """The verified plans by rising bytes, below the unmerged models."""
    extra = beside_bytes(result.candidates)
    header = ["Plan", "MB", "Saved", "Quality kept", "Fidelity", "Proxy"]
    header += [f"{name.capitalize()}, {UNITS[name]}" for name in extra]
    header += [f"{name} {score_name(scores)}" for name, scores in result.baseline.items()]
    unmerged = Line(
        Cell("unmerged"),
        (
            Cell(f"{result.unmerged_bytes / MEGABYTE:.2f}"), Cell("0.0%"), Cell("100.0%"),
            Cell("100.0%"), Cell("1.000"), *(Cell("") for _ in extra),
            *(Cell(score_text(scores), "", interval_text(result.baseline_intervals[name]))
              for name, scores in result.baseline.items()),
        ),
        pinned=True,
    )  # fmt: skip
    ordered = sorted(result.candidates, key=lambda c: c.bytes)
    return Table(tuple(header), (unmerged, *(_line(c, result, extra) for c in ordered)))


def heat_maps(result: Result, similarity: Mapping[Share, float]) -> list[HeatMap]:
    """One per ordered pair of models; of several adapters for a pair of stages the best."""
    stages = {name: [s["name"] for s in m.stages] for name, m in result.models.items()}
    chosen = result.chosen_candidate
    shares = SharePlan.from_dict(chosen.plan).shares if chosen else ()
    shared = {(str(share.donor), str(share.recipient)) for share in shares}
    return [
        HeatMap(d, r, tuple(stages[r]), _heat_rows(similarity, stages, (d, r), shared))
        for r in stages
        for d in stages
        if d != r
    ]


def _line(candidate: CandidateRecord, result: Result, extra: Sequence[Cost]) -> Line:
    c, sure = candidate, candidate.quality_interval
    marks = [
        mark
        for mark, given in (
            ("chosen", c.hash == result.chosen),
            ("verified front", c.hash in result.verified_front),
        )
        if given
    ]
    return Line(
        Cell(c.hash, c.hash),
        (
            Cell(f"{c.bytes / MEGABYTE:.2f}", str(c.bytes)),
            Cell(f"{c.saved_pct:.1f}%", str(c.saved_pct)),
            _known(c.quality_kept, "" if sure is None else percents(sure)),
            _known(c.mean_fidelity),
            Cell(f"{c.proxy:.3f}", str(c.proxy)),
            *(Cell(f"{c.costs[name]:.2f}", str(c.costs[name])) for name in extra),
            *(_score(c, name) for name in result.baseline),
        ),
        tuple(marks),
    )


def _known(share: float | None, note: str = "") -> Cell:
    return Cell(percent(share), "" if share is None else str(share), note)


def _score(candidate: CandidateRecord, name: str) -> Cell:
    scores = candidate.accuracy[name]
    sure = interval_text(candidate.intervals[name])
    note = f"{sure}, {candidate.verdicts[name]}"
    return Cell(score_text(scores), str(main_score(scores)), note)


def _heat_rows(
    similarity: Mapping[Share, float],
    stages: Mapping[str, list[str]],
    pair: tuple[str, str],
    shared: set[tuple[str, str]],
) -> tuple[tuple[str, tuple[Heat, ...]], ...]:
    donor, recipient = pair
    values = matrix(similarity, donor, stages[donor], recipient, stages[recipient])
    return tuple(
        (
            stage,
            tuple(
                _heat(float(value), (f"{donor}:{stage}", f"{recipient}:{to}") in shared)
                for value, to in zip(row, stages[recipient], strict=True)
            ),
        )
        for stage, row in zip(stages[donor], values, strict=True)
    )


def _heat(value: float, shared: bool) -> Heat:
    if not np.isfinite(value):
        return Heat("", None, shared)
    return Heat(f"{value:z.2f}", round(LEVELS * min(1.0, max(0.0, value))), shared)
