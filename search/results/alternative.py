"""What all models keep without merging, with their weights in fewer bytes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from search.results.kept_quality import kept_text
from search.utils.format import megabytes, percent
from spaces.plan import Precision


@dataclass(frozen=True)
class AlternativeRecord:
    """All weights of the unmerged models in one precision, measured as a candidate is."""

    precision: Precision
    bytes: int
    saved_pct: float
    """Per cent of the unmerged bytes."""
    fidelity: float | None
    """Mean over the models, on the held-out frames."""
    quality_kept: float | None
    """Mean over the models, on ground truth."""
    quality_interval: list[float] | None
    """[low, high] of `quality_kept`."""


def describe_alternative(record: AlternativeRecord, at_chance: Collection[str]) -> str:
    """Return a record in words."""
    measured = (
        f"{percent(record.fidelity)} fidelity"
        if record.quality_kept is None
        else f"{kept_text(record.quality_kept, at_chance)} kept"
    )
    return f"all weights in {record.precision}: {megabytes(record.bytes)}, {measured}"
