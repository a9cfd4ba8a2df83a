"""Names and formats of the main score of a model, such as the mAP of a detector."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from search.evaluation.per_frame import Scores, main_score, main_score_name
from search.utils.format import percent, percent_interval

NAMES = {"map": "mAP", "top1": "top-1", "recall1": "recall@1", "miou": "mIoU"}
FRACTIONS = ("map", "miou")
"""Scores that are usually written as fractions, not as percentages."""


def score_name(scores: Container[str]) -> str:
    """Return the name of the main score."""
    return NAMES[main_score_name(scores)]


def score_text(scores: Scores) -> str:
    """Format the main score."""
    value = main_score(scores)
    return f"{value:.3f}" if main_score_name(scores) in FRACTIONS else percent(value)


def interval_text(intervals: Mapping[str, Sequence[float]]) -> str:
    """Format the interval of the main score, given the intervals of all scores."""
    name = main_score_name(intervals)
    low, high = intervals[name]
    return f"{low:.3f}…{high:.3f}" if name in FRACTIONS else percent_interval([low, high])
