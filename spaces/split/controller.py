"""Choose the split and the coding of each frame, so that its answer comes before the deadline."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from spaces.errors import MergeSearchError
from spaces.split.link_estimate import EstimateSettings, LinkEstimate
from spaces.split.operating_point import OperatingPoint


class BadOperatingPoints(MergeSearchError):
    """A controller has no points to choose from, or no deadline to choose by."""


@dataclass(frozen=True)
class ControllerSettings:
    """How careful a controller is.

    Raises:
        ValueError: a value is out of range.
    """

    late: float = 0.03
    """Share of frames that may be late: the reserve follows it."""
    reserve: float = 0.2
    """Share of the estimated rate that is not used, at first."""
    reserve_step: float = 0.05
    """The reserve grows by it after a late frame."""
    spread: float = 1.2
    """A message is at most so many times as large as the mean of its point, nearly always."""
    growth: float = 3.0
    """A message is at most so many times as large as the largest recent one: no transfer has yet
    shown that a larger one gets through."""
    period_ms: float | None = None
    """Time between two frames. With it, no message takes the link for longer, so that none waits
    for the one before."""
    estimate: EstimateSettings = field(default_factory=EstimateSettings)

    def __post_init__(self) -> None:
        if not 0 < self.late < 1 or not 0 <= self.reserve < 1 or not self.reserve_step >= 0:
            raise ValueError("late and reserve are shares below 1, reserve_step is 0 or more")
        if not self.spread >= 1 or not self.growth > 1:
            raise ValueError("spread is at least 1, and growth above 1")
        if self.period_ms is not None and not self.period_ms > 0:
            raise ValueError(f"period_ms is {self.period_ms}: expected a time above 0")


MOST_RESERVE = 0.8


class RateController:
    """Chooses from the transfers of earlier frames how the next one is split and coded.

    Of all points that are predicted to meet the deadline, `choose` takes the one of the best
    quality. The prediction keeps a reserve of the estimated rate. The reserve grows by
    `reserve_step` * (1 - late) with each frame that is late against the prediction, and shrinks by
    `reserve_step` * late with each one in time, so that in the long run the share `late` of the
    frames is late, however the rate of the link varies (Gibbs and Candès, "Adaptive conformal
    inference under distribution shift", arXiv 2106.00170). Messages that could not
    have been smaller do not count.

    A choice is arithmetic on a few numbers for each point, without chance: equal observations give
    equal choices.
    """

    def __init__(
        self,
        points: Sequence[OperatingPoint],
        deadline_ms: float,
        settings: ControllerSettings | None = None,
    ) -> None:
        """Take the points, in any order, and the time from a frame to its answer.

        Raises:
            BadOperatingPoints: there are no points, or the deadline is not above 0.
        """
        if not points:
            raise BadOperatingPoints("a controller needs operating points; the list is empty")
        if not deadline_ms > 0:
            raise BadOperatingPoints(f"deadline_ms is {deadline_ms}: expected a time above 0")
        self.deadline_ms = deadline_ms
        self.settings = settings or ControllerSettings()
        self.link = LinkEstimate(self.settings.estimate)
        self.reserve = self.settings.reserve
        self._excess_ms: deque[float] = deque(maxlen=self.settings.estimate.window)
        self._by_quality = sorted(points, key=lambda p: (-p.quality, p.bytes, _compute_ms(p)))
        self.smallest = min(points, key=lambda p: (p.bytes, _compute_ms(p), -p.quality))

    def choose(self, spent_ms: float = 0.0, backlog_bytes: int = 0) -> OperatingPoint:
        """Return the point of the best quality that is predicted to meet the deadline.

        If none is, it is the smallest one, and `meets_deadline` of it is false.

        Args:
            spent_ms: for how long the frame has waited for the device.
            backlog_bytes: bytes of earlier messages that the link still has to carry.
        """
        for point in self._by_quality:
            if self.meets_deadline(point, spent_ms, backlog_bytes):
                return point
        return self.smallest

    def meets_deadline(
        self, point: OperatingPoint, spent_ms: float = 0.0, backlog_bytes: int = 0
    ) -> bool:
        """Return whether nearly all messages of a point are predicted to be answered in time."""
        budget = self.byte_budget(point, spent_ms + point.device_ms, backlog_bytes)
        return point.bytes * self.settings.spread <= budget

    def byte_budget(
        self, point: OperatingPoint, spent_ms: float | None = None, backlog_bytes: int = 0
    ) -> int:
        """Return the largest message that is predicted to be answered in time; 0 if none is.

        The device can then code the frame as finely as fits.

        Args:
            point: the chosen one; its own bytes do not matter.
            spent_ms: time from the frame to the moment at which the message can be sent, by
                default the `device_ms` of the point.
            backlog_bytes: bytes of earlier messages that the link still has to carry.
        """
        if self.link.bytes_per_ms is None:
            return self._largest_tried()
        bytes_per_ms = self.link.bytes_per_ms * (1 - self.reserve)
        spent = point.device_ms if spent_ms is None else spent_ms
        server_ms = point.server_ms + max(self._excess_ms, default=0.0)
        left_ms = self.deadline_ms - spent - server_ms - self.link.rtt_ms
        fitting = left_ms * bytes_per_ms - backlog_bytes
        if self.settings.period_ms is not None:
            fitting = min(fitting, self.settings.period_ms * bytes_per_ms)
        return min(max(0, int(fitting)), self._largest_tried())

    def observe(
        self,
        sent_bytes: int,
        transfer_ms: float,
        total_ms: float | None = None,
        excess_ms: float = 0.0,
    ) -> None:
        """Take note of a message that was answered, in time or late.

        Args:
            sent_bytes: its size.
            transfer_ms: time from the moment at which the link was free for it to the answer,
                without the time that the server took.
            total_ms: time from the frame to the answer; without it, the reserve stays as it is.
            excess_ms: time that the server took beyond the `server_ms` of the point; the longest
                of the last few is expected of the next one.

        Raises:
            ValueError: nothing was sent, or a time is negative.
        """
        self.link.add_transfer(sent_bytes, transfer_ms)
        self._excess_ms.append(max(0.0, excess_ms))
        if total_ms is not None:
            self._follow(sent_bytes, late=total_ms > self.deadline_ms)

    def observe_timeout(self, sent_bytes: int, waited_ms: float) -> None:
        """Take note of a message that was given up, this long after the link was free for it."""
        self.link.add_timeout(sent_bytes, waited_ms)
        self._follow(sent_bytes, late=True)

    def observe_round_trip(self, rtt_ms: float) -> None:
        """Take note of the round trip of a message that is next to empty."""
        self.link.set_round_trip(rtt_ms)

    def _follow(self, sent_bytes: int, *, late: bool) -> None:
        """Let the reserve follow whether a message that could have been smaller was late."""
        if sent_bytes > self._least_bytes:
            change = self.settings.reserve_step * (late - self.settings.late)
            self.reserve = min(max(0.0, self.reserve + change), MOST_RESERVE)

    @property
    def _least_bytes(self) -> float:
        return self.smallest.bytes * self.settings.spread

    def _largest_tried(self) -> int:
        """Return the size up to which the transfers of late allow to send."""
        largest = self.link.largest_bytes
        if largest is None:
            return sys.maxsize if self.link.bytes_per_ms else math.ceil(self._least_bytes)
        return math.ceil(max(self.settings.growth * largest, self._least_bytes))


def _compute_ms(point: OperatingPoint) -> float:
    return point.device_ms + point.server_ms
