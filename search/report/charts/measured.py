"""The measured quality of candidates in the charts of the front: quality kept, else fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.results.alternative import AlternativeRecord
from search.results.kept_quality import readable_quality
from search.results.search_result import CandidateRecord, Result


@dataclass(frozen=True)
class MeasuredCandidate:
    """A candidate and its place on the axis of quality."""

    record: CandidateRecord
    quality: float
    """Quality kept; fidelity if there is no baseline."""
    interval: Sequence[float] | None
    """[low, high] of the quality kept."""
    on_front: bool
    """Whether it is on the verified front in bytes and quality kept."""


def quality_name(result: Result) -> str:
    """Return the name of the axis of quality."""
    return "quality kept" if result.has_baseline else "fidelity"


def fidelity_label(result: Result) -> str:
    """Return the legend of the candidates where fidelity takes the place of quality kept."""
    if result.at_chance:
        return "fidelity measured; no quality kept, as unmerged accuracy is at chance"
    return "fidelity measured"


def measured_candidates(result: Result) -> list[MeasuredCandidate]:
    """Return the candidates whose quality is known, by rising bytes."""
    if result.has_baseline:
        measured = [
            MeasuredCandidate(
                c, c.quality_kept, c.quality_interval, c.hash in result.verified_front
            )
            for c in result.candidates
            if c.quality_kept is not None
        ]
    else:
        measured = [
            MeasuredCandidate(c, c.mean_fidelity, None, False)
            for c in result.candidates
            if c.mean_fidelity is not None
        ]
    return sorted(measured, key=lambda m: m.record.bytes)


def measured_alternatives(result: Result) -> list[tuple[AlternativeRecord, float]]:
    """Return the alternatives to merging whose quality is known, with their quality."""
    return [
        (a, quality)
        for a in result.alternatives
        if (quality := a.quality_kept if result.has_baseline else a.fidelity) is not None
    ]


def charted_floor(result: Result) -> float | None:
    """Return the quality floor if its line belongs into the chart.

    At chance the axis is fidelity, and a plan is not rejected for the fidelity that it lacks.
    """
    return readable_quality(result.quality_floor, result.at_chance)
