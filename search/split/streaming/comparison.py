"""Compare a controller with fixed points on one link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.split.streaming.oracle import best_outcome
from search.split.streaming.policies import ControlledBytes, ControlledPoints, FixedPoint
from search.split.streaming.simulation import FrameStream, StreamOutcome, simulate
from search.split.streaming.traces import LinkTrace
from spaces.split.controller import ControllerSettings, RateController
from spaces.split.operating_point import OperatingPoint


@dataclass(frozen=True)
class FixedOutcome:
    """A point to which all frames are sent, and what came of it."""

    point: OperatingPoint
    outcome: StreamOutcome

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON data."""
        return {"point_bytes": self.point.bytes, **self.outcome.to_dict()}


@dataclass(frozen=True)
class PolicyComparison:
    """What comes of a stream on one link, by policy."""

    points: StreamOutcome
    """A controller chooses points."""
    bytes: StreamOutcome
    """A controller chooses splits, and codes each frame as finely as fits."""
    fixed: tuple[FixedOutcome, ...]
    """Each point for all frames, in the order given."""
    oracle: StreamOutcome
    """The most frames in time that any policy can have, and the best quality at that."""

    @property
    def best_fixed(self) -> FixedOutcome:
        """The point of the best quality in hindsight, where a late frame counts 0."""
        return max(self.fixed, key=lambda fixed: fixed.outcome.quality)

    def best_fixed_of(self, quality: float) -> FixedOutcome | None:
        """Return the point of at least this quality with the most frames in time, in hindsight.

        None if no point has that quality.
        """
        able = [fixed for fixed in self.fixed if fixed.point.quality >= quality]
        return max(able, key=lambda fixed: fixed.outcome.met, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the outcomes as JSON data; `equal_fixed` is as good as `bytes` in time."""
        equal = self.best_fixed_of(self.bytes.quality_in_time)
        return {
            "points": self.points.to_dict(),
            "bytes": self.bytes.to_dict(),
            "best_fixed": self.best_fixed.to_dict(),
            "equal_fixed": equal and equal.to_dict(),
            "oracle": self.oracle.to_dict(),
        }


def compare_policies(
    trace: LinkTrace,
    stream: FrameStream,
    points: Sequence[OperatingPoint],
    settings: ControllerSettings,
) -> PolicyComparison:
    """Send the frames of a stream over one link with each policy."""

    def controller() -> RateController:
        return RateController(points, stream.deadline_ms, settings)

    return PolicyComparison(
        simulate(trace, stream, ControlledPoints(controller())),
        simulate(trace, stream, ControlledBytes(controller(), points)),
        tuple(FixedOutcome(p, simulate(trace, stream, FixedPoint(p))) for p in points),
        best_outcome(trace, stream, points),
    )
