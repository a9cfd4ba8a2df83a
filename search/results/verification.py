"""What `merge-search verify` found, as plain data: the schema of verified.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from search.evaluation.confidence import Intervals
from search.evaluation.per_frame import Scores
from search.results.search_result import CandidateRecord, choose, versions
from search.utils.records import IsoTime

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Verification:
    """Plans of a finished run, measured on data that its search has not seen."""

    name: str
    seed: int
    result: str
    """The identity of the result whose plans they are."""
    frames: dict[str, Any]
    """`hash` and `count` of the frames that fidelity is measured on."""
    truth: dict[str, dict[str, Any]]
    """Per model with labels, the same of its labelled frames; none means fidelity only."""
    unmerged_bytes: int
    baseline: dict[str, Scores]
    baseline_intervals: Intervals
    candidates: list[CandidateRecord]
    verified_front: list[str]
    chosen: str | None
    """The plan that the search chose, if it is among the candidates."""
    config: dict[str, Any]
    """The run's, with the labels that were used for its `truth`."""
    seconds: dict[str, float]
    created: IsoTime
    versions: dict[str, str] = field(default_factory=versions)
    schema: int = SCHEMA_VERSION

    @property
    def against(self) -> str:
        """What the plans were verified against, as a sentence."""
        if not self.truth:
            return "Fidelity only: no labels, so nothing is said about accuracy"
        models: dict[int, list[str]] = {}
        for name, frames in self.truth.items():
            models.setdefault(frames["count"], []).append(name)
        told = [f"{count} frames ({', '.join(names)})" for count, names in models.items()]
        return f"Verified against ground truth on {' and '.join(told)}"

    @property
    def foremost(self) -> CandidateRecord | None:
        """The plan that the search chose, or, if it is not among them, the best of them."""
        chosen = [c for c in self.candidates if c.hash == self.chosen]
        return chosen[0] if chosen else choose(self.candidates, None)
