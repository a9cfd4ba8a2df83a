"""The outcome of `merge-search correlate`: how well each metric predicts measured accuracy.

This is the schema of league.json (docs/how-to/choose-a-metric.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from search.evaluation.correlation import (
    COEFFICIENTS,
    MIN_POINTS,
    Correlation,
    compute_correlation,
    compute_mean_correlation,
)
from search.evaluation.per_frame import Scores
from search.results.search_result import package_versions
from search.utils.arrays import FloatVector
from search.utils.records import IsoTime
from spaces.plan import Ref, Share

METRIC_COMPARISON_SCHEMA = 1
SHARE_GROUPS = {
    "all": "all shares",
    "same": "same stage",
    "cross": "cross stage",
    "within": "within a recipient stage",
}
"""The groups of shares that are correlated, with their titles.

`same`: donor and recipient stage have the same name. `cross`: all other shares. `within`: the mean
correlation over the recipient stages with at least `MIN_POINTS` donors, each over its own donors,
so that the depth of a stage has no influence.
"""

SimilarityByShare = Mapping[Share, float]
Correlations = dict[str, dict[str, Correlation]]
"""By group of shares, then by coefficient."""


@dataclass(frozen=True)
class MetricTable:
    """Correlations of the metrics with accuracy on one part of the labelled frames."""

    frames: dict[str, int]
    """The number of frames on which each model's accuracy is measured."""
    unmerged: dict[str, Scores]
    left_out: dict[str, str]
    """Models whose shares are not in the table, with the reason."""
    metrics: dict[str, Correlations]

    def pearson(self, metric: str, group: str = "all") -> Correlation:
        return self.metrics[metric][group]["pearson"]

    @property
    def ranking(self) -> list[str]:
        """The metrics by falling |Pearson r| over all shares; undefined ones come last."""
        return sorted(self.metrics, key=lambda metric: -_strength(self.pearson(metric)))

    @property
    def winner(self) -> str | None:
        """The first metric of the ranking; None if no metric has a correlation."""
        defined = [name for name in self.ranking if self.pearson(name).value is not None]
        return defined[0] if defined else None


LabelPart = Literal["deciding", "reporting"]
LABEL_PARTS: tuple[LabelPart, LabelPart] = ("deciding", "reporting")
MetricTables = Mapping[LabelPart, MetricTable]


@dataclass(frozen=True)
class MetricComparison:
    """The outcome of one comparison of metrics."""

    name: str
    seed: int
    adapters: list[str]
    frames: dict[str, Any]
    """`hash` and `count` of the unlabelled frames."""
    models: dict[str, str]
    """Architecture by name."""
    shares: dict[str, int]
    """The number of shares measured: all, same, cross."""
    metrics: dict[str, str]
    """A description of each metric."""
    metric_seconds: dict[str, float]
    """Seconds to compute the metric for all shares, given the statistics."""
    winner: str | None
    """The best metric on the deciding part of the labelled frames."""
    deciding: MetricTable
    reporting: MetricTable
    settings: dict[str, Any]
    config: dict[str, Any]
    seconds: dict[str, float]
    created: IsoTime
    versions: dict[str, str] = field(default_factory=package_versions)
    schema: int = METRIC_COMPARISON_SCHEMA


def correlate_groups(
    values: SimilarityByShare, quality: SimilarityByShare, seed: int
) -> Correlations:
    """Return all coefficients of a metric with quality kept, in every group of shares.

    `quality` holds the quality kept of each share; only its shares are compared.
    """
    shares = list(quality)
    groups = {"all": shares, "same": same_stage(shares), "cross": cross_stage(shares)}
    points = {group: _points(values, quality, members) for group, members in groups.items()}
    stages = [_points(values, quality, members) for members in by_recipient(shares).values()]
    correlations = {
        group: {
            name: compute_correlation(coefficient, x, y, seed)
            for name, coefficient in COEFFICIENTS.items()
        }
        for group, (x, y) in points.items()
    }
    correlations["within"] = {
        name: compute_mean_correlation(coefficient, stages, seed)
        for name, coefficient in COEFFICIENTS.items()
    }
    return correlations


def same_stage(shares: Sequence[Share]) -> list[Share]:
    """Return the shares between stages of the same name."""
    return [share for share in shares if share.donor.stage == share.recipient.stage]


def cross_stage(shares: Sequence[Share]) -> list[Share]:
    """Return the shares between stages of different names."""
    return [share for share in shares if share.donor.stage != share.recipient.stage]


def by_recipient(shares: Sequence[Share]) -> dict[Ref, list[Share]]:
    """Return the shares into each recipient stage that has at least `MIN_POINTS` donors."""
    by_stage: dict[Ref, list[Share]] = {}
    for share in shares:
        by_stage.setdefault(share.recipient, []).append(share)
    return {
        recipient: members
        for recipient, members in by_stage.items()
        if len({share.donor for share in members}) >= MIN_POINTS
    }


def _points(
    values: SimilarityByShare, quality: SimilarityByShare, shares: Sequence[Share]
) -> tuple[FloatVector, FloatVector]:
    return (
        np.array([values[share] for share in shares], dtype=np.float64),
        np.array([quality[share] for share in shares], dtype=np.float64),
    )


def _strength(coefficient: Correlation) -> float:
    return -1.0 if coefficient.value is None else abs(coefficient.value)
