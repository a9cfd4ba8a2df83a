"""Choose the split and the coding of each frame, so that its answer comes before the deadline."""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from spaces.errors import MergeSearchError
from spaces.split.link_estimate import RECENT, EstimateSettings, LinkEstimate
from spaces.split.operating_point import OperatingPoint


class BadOperatingPoints(MergeSearchError):
    """A controller has no points to choose from, or no deadline to choose by."""


@dataclass(frozen=True)
class ControllerSettings:
    """What a controller aims at.

    Raises:
        ValueError: a value is out of range.
    """

    worth: float = 1.0
    """What an answer in time is worth besides its quality: the more, the fewer are late."""
    growth: float = 2.0
    """No message is larger than the first point beyond so many times the largest recent one: no
    transfer has yet shown that a larger one gets through."""
    period_ms: float | None = None
    """Time between two frames. With it, no message takes the link for longer, so that none waits
    for the one before."""
    estimate: EstimateSettings = field(default_factory=EstimateSettings)

    def __post_init__(self) -> None:
        if not self.worth >= 0 or not self.growth >= 1:
            raise ValueError("worth is 0 or more, and growth 1 or more")
        if self.period_ms is not None and not self.period_ms > 0:
            raise ValueError(f"period_ms is {self.period_ms}: expected a time above 0")


LEAST_CHANCE = 0.5
"""Of the points that are less likely in time, only the smallest is sent: on a link that is next to
dead, a large message is as unlikely in time as a small one, but holds up those after it."""


class RateController:
    """Chooses from the transfers of earlier frames how the next one is split and coded.

    Of all points, `choose` takes the one of the largest expected value: (quality + `worth`) times
    the chance to be in time. A message of a point is in time if the rate of the link is at least
    its bytes divided by the time that is left for them. The chance of this is counted, not
    assumed: it is the share of the last 200 transfers that were, relative to the estimate of the
    rate before them, as fast as the point needs (`LinkEstimate`). On a link whose rate jumps, the
    controller therefore sends smaller messages than on a steady one of the same rate.

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
        self._excess_ms: deque[float] = deque(maxlen=RECENT)
        self._by_quality = sorted(points, key=lambda p: (-p.quality, p.bytes, _compute_ms(p)))
        self._sizes = sorted(point.bytes for point in points)
        self.smallest = min(points, key=lambda p: (p.bytes, _compute_ms(p), -p.quality))

    def choose(self, spent_ms: float = 0.0, backlog_bytes: int = 0) -> OperatingPoint:
        """Return the point of the largest expected value.

        If none is more likely in time than not, it is the smallest one, and `meets_deadline` of
        it is false.

        Args:
            spent_ms: for how long the frame has waited for the device.
            backlog_bytes: bytes of earlier messages that the link still has to carry.
        """

        def value(point: OperatingPoint) -> float:
            chance = self.chance(point, spent_ms + point.device_ms, backlog_bytes)
            return self._value(point, chance)

        best = max(self._by_quality, key=value)
        return best if value(best) > 0 else self.smallest

    def chance(
        self, point: OperatingPoint, spent_ms: float | None = None, backlog_bytes: int = 0
    ) -> float:
        """Return how likely a message with the bytes of a point is answered in time.

        Args:
            point: any one.
            spent_ms: time from the frame to the moment at which the message can be sent, by
                default the `device_ms` of the point.
            backlog_bytes: bytes of earlier messages that the link still has to carry.
        """
        left_ms = self._left_ms(point, point.device_ms if spent_ms is None else spent_ms)
        if point.bytes > self._largest_allowed() or left_ms <= 0:
            return 0.0
        if self.link.bytes_per_ms is None:
            return LEAST_CHANCE  # nothing is known of the link
        needed = (point.bytes + backlog_bytes) / left_ms
        if self.settings.period_ms is not None:
            needed = max(needed, point.bytes / self.settings.period_ms)
        return self.link.chance(needed)

    def meets_deadline(
        self, point: OperatingPoint, spent_ms: float = 0.0, backlog_bytes: int = 0
    ) -> bool:
        """Return whether a message of a point is at least as likely in time as late."""
        return self.chance(point, spent_ms + point.device_ms, backlog_bytes) >= LEAST_CHANCE

    def byte_budget(
        self, point: OperatingPoint, spent_ms: float | None = None, backlog_bytes: int = 0
    ) -> int:
        """Return up to how many bytes the message of the frame should have; 0 if none is in time.

        The device can then code the frame as finely as fits. Of the points at the same split, the
        one of the largest expected value is chosen again, now that the device is done. The budget
        is the largest message that is as likely in time.

        Args:
            point: the chosen one.
            spent_ms: time from the frame to the moment at which the message can be sent, by
                default the `device_ms` of the point.
            backlog_bytes: bytes of earlier messages that the link still has to carry.
        """
        spent = point.device_ms if spent_ms is None else spent_ms
        own = [p for p in self._by_quality if p.split == point.split]
        chances = [self.chance(p, spent, backlog_bytes) for p in own]
        best = max(range(len(own)), key=lambda k: self._value(own[k], chances[k]))
        bytes_per_ms = self.link.rate_of(max(chances[best], LEAST_CHANCE))
        if not bytes_per_ms:
            return self._largest_allowed()
        fitting = self._left_ms(point, spent) * bytes_per_ms - backlog_bytes
        if self.settings.period_ms is not None:
            fitting = min(fitting, self.settings.period_ms * bytes_per_ms)
        return min(max(0, int(fitting)), self._largest_allowed())

    def observe(self, sent_bytes: int, transfer_ms: float, excess_ms: float = 0.0) -> None:
        """Take note of a message that was answered, in time or late.

        Args:
            sent_bytes: its size.
            transfer_ms: time from the moment at which the link was free for it to the answer,
                without the time that the server took.
            excess_ms: time that the server took beyond the `server_ms` of the point; the longest
                of the last few is expected of the next one.

        Raises:
            ValueError: nothing was sent, or a time is negative.
        """
        self.link.add_transfer(sent_bytes, transfer_ms)
        self._excess_ms.append(max(0.0, excess_ms))

    def observe_timeout(self, sent_bytes: int, waited_ms: float) -> None:
        """Take note of a message that was given up, this long after the link was free for it."""
        self.link.add_timeout(sent_bytes, waited_ms)

    def observe_round_trip(self, rtt_ms: float) -> None:
        """Take note of the round trip of a message that is next to empty."""
        self.link.set_round_trip(rtt_ms)

    def _value(self, point: OperatingPoint, chance: float) -> float:
        """Return the expected value of a message; 0 if it is more likely late."""
        return (point.quality + self.settings.worth) * chance if chance >= LEAST_CHANCE else 0.0

    def _left_ms(self, point: OperatingPoint, spent_ms: float) -> float:
        """Return the time for the bytes of a message, from when it can be sent."""
        server_ms = point.server_ms + max(self._excess_ms, default=0.0)
        return self.deadline_ms - spent_ms - server_ms - self.link.rtt_ms

    def _largest_allowed(self) -> int:
        """Return the size up to which the transfers of late allow to send."""
        largest = self.link.largest_bytes
        if largest is None:
            return sys.maxsize if self.link.bytes_per_ms else math.ceil(self.smallest.bytes)
        beyond = self.settings.growth * largest
        larger = self._sizes[bisect_right(self._sizes, beyond) :]
        return math.ceil(larger[0]) if larger else sys.maxsize


def _compute_ms(point: OperatingPoint) -> float:
    return point.device_ms + point.server_ms
