"""The tables of the report page as plain cells: candidates and similarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.evaluation.per_frame import main_score
from search.report.candidate_table import units_besides_bytes
from search.report.score_text import interval_text, score_name, score_text
from search.report.similarity_matrix import Stages, model_pairs, similarity_matrix
from search.results.kept_quality import kept_interval_text, kept_text, readable_quality
from search.results.measured import (
    DeviceMeasurement,
    find_measurement,
    measured_places,
    measured_texts,
)
from search.results.precisions import BITS, parts_text
from search.results.search_result import CandidateRecord, Result
from search.study.objectives import MEGA
from search.study.problem import Cost
from search.utils.format import MEGABYTE, percent
from spaces.plan import Share, SharePlan

LEVELS = 10
"""Number of colour steps from similarity 0 to 1."""


@dataclass(frozen=True)
class Cell:
    """The text of a cell, its sort key, and a note in small print."""

    text: str
    sort: str = ""
    note: str = ""


@dataclass(frozen=True)
class CandidateRow:
    """A candidate, or the unmerged models."""

    plan: Cell
    cells: tuple[Cell, ...]
    marks: tuple[str, ...] = ()
    pinned: bool = False
    """Whether the row stays on top when the table is sorted."""


@dataclass(frozen=True)
class CandidateTable:
    """The header, beginning with the column of plans, and the rows."""

    header: tuple[str, ...]
    rows: tuple[CandidateRow, ...]


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map."""

    text: str
    level: int | None
    """The colour step; None where no share is legal."""
    shared: bool
    """Whether the chosen plan has this share."""


@dataclass(frozen=True)
class HeatMap:
    """Similarities of one ordered pair of models: donor stages down, recipient stages across."""

    donor: str
    recipient: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


def candidate_table(result: Result) -> CandidateTable:
    """Return the unmerged models, then the candidates by rising bytes."""
    units = units_besides_bytes(result.candidates)
    header = ["Plan", "MB", "Saved", "Quality kept", "Fidelity", "Proxy"]
    header += ["Weights"] if result.has_precisions else []
    header += [f"{name.capitalize()}, {unit}" for name, unit in units.items()]
    header += [f"{name} {score_name(scores)}" for name, scores in result.baseline.items()]
    places = measured_places(result.measured)
    header += [
        f"{number} on {place}" for place in places for number in ("ms per frame", "Resident MB")
    ]
    unmerged = CandidateRow(
        Cell("unmerged"),
        (
            Cell(f"{result.unmerged_bytes / MEGABYTE:.2f}"), Cell("0.0%"),
            Cell(kept_text(1.0, result.at_chance)), Cell("100.0%"), Cell("1.000"),
            *([Cell(result.dtype)] if result.has_precisions else []),
            *(_unmerged_cost_cell(result, name) for name in units),
            *(Cell(score_text(scores), "", interval_text(result.baseline_intervals[name]))
              for name, scores in result.baseline.items()),
            *(Cell("") for _ in places for _ in range(2)),
        ),
        pinned=True,
    )  # fmt: skip
    ordered = sorted(result.candidates, key=lambda c: c.bytes)
    return CandidateTable(
        tuple(header), (unmerged, *(_row(c, result, list(units)) for c in ordered))
    )


def heat_maps(result: Result, similarity: Mapping[Share, float]) -> list[HeatMap]:
    """Return one map per ordered pair of models."""
    stages = result_stages(result)
    chosen = result.chosen_candidate
    shares = SharePlan.from_dict(chosen.plan).shares if chosen else ()
    shared = {(str(share.donor), str(share.recipient)) for share in shares}
    return [
        HeatMap(d, r, tuple(stages[r]), _heat_rows(similarity, stages, (d, r), shared))
        for d, r in model_pairs(stages)
    ]


def result_stages(result: Result) -> Stages:
    """Return the stage names of each model."""
    return {name: [s["name"] for s in model.stages] for name, model in result.models.items()}


def _row(c: CandidateRecord, result: Result, costs: Sequence[Cost]) -> CandidateRow:
    quality = readable_quality(c.quality_kept, result.at_chance)
    marks = [
        mark
        for mark, applies in (
            ("chosen", c.hash == result.chosen),
            ("verified front", c.hash in result.verified_front),
            ("refined maps", bool(c.refinement_text)),
        )
        if applies
    ]
    return CandidateRow(
        Cell(c.hash, c.hash),
        (
            Cell(f"{c.bytes / MEGABYTE:.2f}", str(c.bytes)),
            Cell(f"{c.saved_pct:.1f}%", str(c.saved_pct)),
            _percent_cell(quality, kept_interval_text(c.quality_interval, result.at_chance)),
            _percent_cell(c.mean_fidelity),
            Cell(f"{c.proxy:.3f}", str(c.proxy)),
            *([_weights_cell(c, result)] if result.has_precisions else []),
            *(_cost_cell(c.costs_besides_bytes[name]) for name in costs),
            *(_score_cell(c, name) for name in result.baseline),
            *(
                cell
                for place in measured_places(result.measured)
                for cell in _measured_cells(find_measurement(result.measured, c.hash, place))
            ),
        ),
        tuple(marks),
    )


def _unmerged_cost_cell(result: Result, name: Cost) -> Cell:
    per_second = result.unmerged_macs_per_second
    return Cell(f"{per_second / MEGA:.2f}") if name == "macs" and per_second else Cell("")


def _cost_cell(value: float) -> Cell:
    return Cell(f"{value:.2f}", str(value))


def _weights_cell(c: CandidateRecord, result: Result) -> Cell:
    """Return the precisions with their parts of the bytes; they sort by bytes per weight."""
    if not c.stored:
        return Cell(result.dtype, str(BITS[result.dtype]))
    sizes = {precision: sum(owners.values()) for precision, owners in c.stored.items()}
    bits = sum(sizes.values()) / sum(s / BITS[p] for p, s in sizes.items())
    most, _, others = parts_text(c.stored).partition(", ")
    return Cell(most, f"{bits:.3f}", others)


def _percent_cell(share: float | None, note: str = "") -> Cell:
    return Cell(percent(share), "" if share is None else str(share), note)


def _score_cell(candidate: CandidateRecord, name: str) -> Cell:
    scores = candidate.accuracy[name]
    note = f"{interval_text(candidate.intervals[name])}, {candidate.significance_by_model[name]}"
    return Cell(score_text(scores), str(main_score(scores)), note)


def _measured_cells(measurement: DeviceMeasurement | None) -> list[Cell]:
    """Return milliseconds per frame and resident megabytes; empty where they are not measured."""
    milliseconds, resident = measured_texts(measurement)
    note = "" if measurement is None else measurement.notes
    return [Cell(milliseconds, milliseconds, note), Cell(resident, resident)]


def _heat_rows(
    similarity: Mapping[Share, float],
    stages: Stages,
    pair: tuple[str, str],
    shared: set[tuple[str, str]],
) -> tuple[tuple[str, tuple[HeatCell, ...]], ...]:
    donor, recipient = pair
    values = similarity_matrix(similarity, stages, donor, recipient)
    return tuple(
        (
            stage,
            tuple(
                _heat_cell(float(value), (f"{donor}:{stage}", f"{recipient}:{to}") in shared)
                for value, to in zip(row, stages[recipient], strict=True)
            ),
        )
        for stage, row in zip(stages[donor], values, strict=True)
    )


def _heat_cell(value: float, shared: bool) -> HeatCell:
    if not np.isfinite(value):
        return HeatCell("", None, shared)
    return HeatCell(f"{value:z.2f}", round(LEVELS * min(1.0, max(0.0, value))), shared)
