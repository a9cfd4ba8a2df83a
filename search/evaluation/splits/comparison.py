"""Which measured point of each method is the cheapest that is good enough, and by how much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from search.evaluation.bootstrap import (
    BOOTSTRAP_DRAWS,
    bootstrap_draws,
    percentile_interval,
)
from search.evaluation.confidence import Resampling
from search.evaluation.per_frame import FrameScoresByModel, main_score
from search.evaluation.splits.link_scores import LinkScores
from search.utils.arrays import FloatVector


class SentPoint(NamedTuple):
    """One measured point of a method."""

    method: str
    label: str
    bytes: float
    """Per frame."""
    kept: float
    """From 0 to 1: the mean fidelity, or the quality kept."""


def cheapest_keeping(points: Iterable[SentPoint], target: float) -> dict[str, SentPoint]:
    """Return, by method, the point of the fewest bytes that keeps at least the target.

    Methods without such a point are left out.
    """
    cheapest: dict[str, SentPoint] = {}
    for point in sorted(points, key=lambda point: point.bytes):
        if point.kept >= target:
            cheapest.setdefault(point.method, point)
    return cheapest


@dataclass(frozen=True)
class PairedDifference:
    """A number of one method against that of another on the same frames."""

    value: float
    low: float
    high: float
    """The 95% interval."""


def byte_ratio(first: LinkScores, second: LinkScores) -> PairedDifference:
    """Return the bytes of one method over those of another, by draws of the frames.

    The hash of the frames is the seed, as in `Resampling`.

    Raises:
        ValueError: the methods were measured on other frames.
    """
    if first.bytes.keys() != second.bytes.keys():
        raise ValueError("the methods were measured on other frames")
    value = first.mean_bytes / second.mean_bytes
    drawn = _drawn_bytes(first) / _drawn_bytes(second)
    return PairedDifference(value, *percentile_interval(value, drawn))


def kept_difference(
    first: FrameScoresByModel, second: FrameScoresByModel, resampling: Resampling
) -> PairedDifference | None:
    """Return the mean main score of one method less that of another; None without models.

    Raises:
        ValueError: the methods were measured with other models.
    """
    if first.keys() != second.keys():
        raise ValueError("the methods were measured with other models")
    ours, theirs = (resampling.mean_score_draws(scores) for scores in (first, second))
    if ours is None or theirs is None:
        return None
    value = _mean_main(first) - _mean_main(second)
    return PairedDifference(value, *percentile_interval(value, ours - theirs))


def _mean_main(scores: FrameScoresByModel) -> float:
    return float(np.mean([main_score(own.scores) for own in scores.values()]))


def _drawn_bytes(scores: LinkScores) -> FloatVector:
    """Return the bytes of all frames in each draw, (draws,)."""
    total: FloatVector = np.zeros(BOOTSTRAP_DRAWS)
    for key, sizes in scores.bytes.items():
        tables = bootstrap_draws(len(sizes), [*key.encode()])
        total += np.concatenate([counts @ sizes for counts in tables])
    return total
