"""The league of guides: how well each one's numbers go together with measured accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from search.evaluation.bootstrap import Vector
from search.evaluation.correlation import (
    COEFFICIENTS,
    SMALLEST,
    Correlation,
    correlation,
    mean_correlation,
)
from search.evaluation.per_frame import Scores
from search.results.search_result import versions
from search.utils.records import IsoTime
from spaces.plan import Ref, Share

SCHEMA_VERSION = 1
GROUPS = {
    "all": "all shares",
    "same": "same stage",
    "cross": "cross stage",
    "within": "within a recipient stage",
}
"""Which shares are compared with one another.

`same`: donor and recipient stage have one name; `cross`: all others. `within`: the mean over the
recipient stages with at least `SMALLEST` donors of the correlation among those donors alone, so
that how deep a stage lies explains nothing.
"""

Values = Mapping[Share, float]
Correlations = dict[str, dict[str, Correlation]]
"""By group, then by coefficient."""


@dataclass(frozen=True)
class Table:
    """The guides against accuracy on one part of the labelled frames."""

    frames: dict[str, int]
    """How many frames each model's accuracy is measured on."""
    unmerged: dict[str, Scores]
    left_out: dict[str, str]
    """Models whose shares are not in the table, and why."""
    guides: dict[str, Correlations]

    def pearson(self, guide: str, group: str = "all") -> Correlation:
        return self.guides[guide][group]["pearson"]

    @property
    def ranking(self) -> list[str]:
        """The guides by falling |Pearson r| over all shares; where it is not defined, last."""
        return sorted(self.guides, key=lambda guide: -_strength(self.pearson(guide)))

    @property
    def winner(self) -> str | None:
        """The first of the ranking; None if no guide has a correlation."""
        defined = [name for name in self.ranking if self.pearson(name).value is not None]
        return defined[0] if defined else None


Part = Literal["deciding", "reporting"]
PARTS: tuple[Part, Part] = ("deciding", "reporting")
Tables = Mapping[Part, Table]


@dataclass(frozen=True)
class MetricComparison:
    """Everything of one comparison: the schema of league.json (docs/how-to/choose-a-metric.md)."""

    name: str
    seed: int
    adapters: list[str]
    frames: dict[str, Any]
    models: dict[str, str]
    """Architecture by name."""
    shares: dict[str, int]
    """How many shares were measured: all, same, cross."""
    guides: dict[str, str]
    """What each guide is, in words."""
    guide_seconds: dict[str, float]
    """Time to value all shares with each guide, given the statistics."""
    winner: str | None
    """By the deciding part of the labelled frames alone."""
    deciding: Table
    reporting: Table
    settings: dict[str, Any]
    config: dict[str, Any]
    seconds: dict[str, float]
    created: IsoTime
    versions: dict[str, str] = field(default_factory=versions)
    schema: int = SCHEMA_VERSION


def correlations(guide: Values, kept: Values, seed: int) -> Correlations:
    """All coefficients of one guide with accuracy in every group, over the shares of `kept`."""
    shares = list(kept)
    groups = {"all": shares, "same": same_stage(shares), "cross": cross_stage(shares)}
    points = {group: _points(guide, kept, members) for group, members in groups.items()}
    stages = [_points(guide, kept, members) for members in by_recipient(shares).values()]
    found = {
        group: {
            name: correlation(coefficient, x, y, seed)
            for name, coefficient in COEFFICIENTS.items()
        }
        for group, (x, y) in points.items()
    }
    found["within"] = {
        name: mean_correlation(coefficient, stages, seed)
        for name, coefficient in COEFFICIENTS.items()
    }
    return found


def same_stage(shares: Sequence[Share]) -> list[Share]:
    """The shares between stages of one name."""
    return [share for share in shares if share.donor.stage == share.recipient.stage]


def cross_stage(shares: Sequence[Share]) -> list[Share]:
    """The shares between stages of different names."""
    return [share for share in shares if share.donor.stage != share.recipient.stage]


def by_recipient(shares: Sequence[Share]) -> dict[Ref, list[Share]]:
    """The shares into each recipient stage that has enough donors to compare."""
    into: dict[Ref, list[Share]] = {}
    for share in shares:
        into.setdefault(share.recipient, []).append(share)
    return {
        recipient: members
        for recipient, members in into.items()
        if len({share.donor for share in members}) >= SMALLEST
    }


def _points(guide: Values, kept: Values, shares: Sequence[Share]) -> tuple[Vector, Vector]:
    return (
        np.array([guide[share] for share in shares], dtype=np.float64),
        np.array([kept[share] for share in shares], dtype=np.float64),
    )


def _strength(found: Correlation) -> float:
    return -1.0 if found.value is None else abs(found.value)
