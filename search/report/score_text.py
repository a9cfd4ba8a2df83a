"""Names and formats of the main score of a model: mAP of a detector, top-1 of a classifier."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from search.evaluation.per_frame import Scores, main_score, main_score_name
from search.utils.format import percent, percent_interval

NAMES = {"map": "mAP", "top1": "top-1"}


def score_name(scores: Container[str]) -> str:
    """Return the name of the main score."""
    return NAMES[main_score_name(scores)]


def score_text(scores: Scores) -> str:
    """Format the main score."""
    value = main_score(scores)
    return f"{value:.3f}" if "map" in scores else percent(value)


def interval_text(intervals: Mapping[str, Sequence[float]]) -> str:
    """Format the interval of the main score, given the intervals of all scores."""
    low, high = intervals[main_score_name(intervals)]
    return f"{low:.3f}…{high:.3f}" if "map" in intervals else percent_interval([low, high])
