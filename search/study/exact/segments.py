"""Segments of a backbone, its pieces between the taps, and the decisions of a plan in each.

A segment has at most one share. Of the shares within one segment only the last can reach the tap
at its end. The stages of a segment are numbered by their *position*, from 1. Two numbers describe
which of them are live:

- `replaced`: the position of the share's recipient, 0 without a share. The share makes the stages
  up to this position, the *prefix*, superfluous; the stages after it, the *suffix*, are live.
- `retained`: the position of the last stage in the prefix that a share of any segment takes as its
  donor; 0 if there is none. The prefix is live up to this position.

So a stage is live if its position is above `replaced` or at most `retained`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spaces.liveness import Layouts
from spaces.plan import Ref

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NO_SHARE = -1
"""Takes the place of a share's number where a segment has no share."""
INPUT = -1
"""Takes the place of a segment's number for the input of the models."""


@dataclass(frozen=True)
class Segment:
    """The stages after one tap, up to and including the next tap."""

    model: str
    stages: tuple[str, ...]
    previous: int
    """Number of the segment that this one reads, or INPUT."""
    taps: int
    """How often the head reads the segment's end; 0 for the stages past the last tap."""

    @property
    def replaced_without_share(self) -> int:
        """`replaced` if the segment has no share.

        Nothing reads the stages past the last tap but shares: they count as replaced.
        """
        return 0 if self.taps else len(self.stages) + 1


def split_into_segments(layouts: Layouts) -> Iterator[Segment]:
    """Yield the segments of all models, in the order of models and stages."""
    number = 0
    for name, layout in layouts.items():
        start, previous = 0, INPUT
        taps = sorted({layout.index(tap) for tap in layout.taps})
        for end in [*taps, len(layout.stages) - 1]:
            stages = layout.stages[start : end + 1]
            if not stages:
                continue
            yield Segment(name, stages, previous, layout.taps.count(stages[-1]))
            start, previous, number = end + 1, number, number + 1


def stage_positions(segments: Sequence[Segment]) -> dict[Ref, tuple[int, int]]:
    """Map every stage to its segment and position, in the order of models and stages."""
    return {
        Ref(segment.model, stage): (number, position)
        for number, segment in enumerate(segments)
        for position, stage in enumerate(segment.stages, start=1)
    }


def quality_weights(segments: Sequence[Segment], layouts: Layouts) -> Floats:
    """Return the weight of each segment's end in its model's quality, (models, segments)."""
    weights = np.zeros((len(layouts), len(segments)))
    for row, layout in enumerate(layouts.values()):
        for column, segment in enumerate(segments):
            if segment.model == layout.model:
                weights[row, column] = segment.taps / len(layout.taps)
    return weights
