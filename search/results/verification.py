"""The outcome of `merge-search verify`: the schema of verified.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from search.evaluation.confidence import ScoreIntervals
from search.evaluation.per_frame import Scores
from search.results.search_result import CandidateRecord, choose_candidate, package_versions
from search.utils.records import IsoTime

VERIFICATION_SCHEMA = 1


@dataclass(frozen=True)
class Verification:
    """Plans of a finished run, measured on data that its search did not use."""

    name: str
    seed: int
    result: str
    """Identity of the result that the plans come from."""
    frames: dict[str, Any]
    """`hash` and `count` of the frames on which fidelity is measured."""
    truth: dict[str, dict[str, Any]]
    """By model with labels, `hash` and `count` of its labelled frames; empty for fidelity only."""
    unmerged_bytes: int
    baseline: dict[str, Scores]
    """Scores of the unmerged models."""
    baseline_intervals: ScoreIntervals
    candidates: list[CandidateRecord]
    verified_front: list[str]
    chosen: str | None
    """Hash of the plan that the search chose, if it is among the candidates."""
    config: dict[str, Any]
    """The run's config, with the labels of this verification in `truth`."""
    seconds: dict[str, float]
    created: IsoTime
    versions: dict[str, str] = field(default_factory=package_versions)
    schema: int = VERIFICATION_SCHEMA

    @property
    def against(self) -> str:
        """A sentence on the data that the plans were verified against."""
        if not self.truth:
            return "Fidelity only: without labels, accuracy is not measured"
        models: dict[int, list[str]] = {}
        for name, frames in self.truth.items():
            models.setdefault(frames["count"], []).append(name)
        counts = [f"{count} frames ({', '.join(names)})" for count, names in models.items()]
        return f"Verified against ground truth on {' and '.join(counts)}"

    @property
    def main_candidate(self) -> CandidateRecord | None:
        """The plan that the search chose, or the best candidate if that plan is not among them."""
        candidates = [c for c in self.candidates if c.hash == self.chosen]
        return candidates[0] if candidates else choose_candidate(self.candidates, None)
