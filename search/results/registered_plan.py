"""The record of a plan in the registry: written when it is registered, compared on promotion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.results.search_result import CandidateRecord, Result


@dataclass(frozen=True)
class RegisteredPlan:
    """The properties of a registered plan that the promotion rule uses."""

    plan: str
    """Hash of the plan."""
    bundle: str
    """Identity of its bundle."""
    bytes: int
    unmerged_bytes: int
    quality: float | None
    """Quality kept on ground truth; None if it was not measured."""
    interval: tuple[float, float] | None
    """95% interval of `quality`."""
    worst: float | None
    """Quality kept of the model that loses most."""
    fidelity: float | None
    """Mean over the models."""
    labels: Mapping[str, str]
    """By model with ground truth, the hashes of its labelled frames and of its labels."""
    frames: str
    """Hash of the unlabelled frames."""
    created: str
    """ISO 8601, UTC."""
    fidelity_interval: tuple[float, float] | None = None
    """95% interval of `fidelity`, if it was measured on the served bundle itself."""
    at_chance: tuple[str, ...] = ()
    """Models whose unmerged score on these labels is no better than chance."""

    @classmethod
    def of(cls, result: Result, candidate: CandidateRecord) -> RegisteredPlan:
        """Build the record of a candidate whose bundle is the result's."""
        interval = candidate.quality_interval
        return cls(
            plan=candidate.hash,
            bundle=str(result.bundle),
            bytes=candidate.bytes,
            unmerged_bytes=result.unmerged_bytes,
            quality=candidate.quality_kept,
            interval=None if interval is None else (interval[0], interval[1]),
            worst=min(candidate.kept.values(), default=None),
            fidelity=candidate.mean_fidelity,
            labels={
                name: f"{data['hash']} {data['labels']}" for name, data in result.truth.items()
            },
            frames=str(result.frames["hash"]),
            created=result.created,
            at_chance=tuple(result.at_chance),
        )
