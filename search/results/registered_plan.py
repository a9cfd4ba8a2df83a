"""What is known of a plan in the registry: written when it is registered, read to judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.results.search_result import CandidateRecord, Result


@dataclass(frozen=True)
class RegisteredPlan:
    """All that the rule asks of a registered plan."""

    plan: str
    bundle: str
    bytes: int
    unmerged_bytes: int
    quality: float | None
    """`quality_kept` on ground truth; None if it was not measured."""
    interval: tuple[float, float] | None
    worst: float | None
    """The least that any of its models keeps."""
    fidelity: float | None
    labels: Mapping[str, str]
    """Per model with ground truth, what tells its labelled frames and labels from others."""
    frames: str
    """What tells the unlabelled frames from others."""
    created: str
    fidelity_interval: tuple[float, float] | None = None
    """Of `fidelity`, where it was measured on the served bundle itself."""

    @classmethod
    def of(cls, result: Result, candidate: CandidateRecord) -> RegisteredPlan:
        sure = candidate.quality_interval
        return cls(
            plan=candidate.hash,
            bundle=str(result.bundle),
            bytes=candidate.bytes,
            unmerged_bytes=result.unmerged_bytes,
            quality=candidate.quality_kept,
            interval=None if sure is None else (sure[0], sure[1]),
            worst=min(candidate.kept.values(), default=None),
            fidelity=candidate.mean_fidelity,
            labels={n: f"{known['hash']} {known['labels']}" for n, known in result.truth.items()},
            frames=str(result.frames["hash"]),
            created=result.created,
        )
