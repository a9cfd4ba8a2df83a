"""What a simulated device sends for each frame: always the same, or as a controller says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from spaces.split.controller import RateController
from spaces.split.operating_point import OperatingPoint


@dataclass(frozen=True)
class Sending:
    """The message of one frame."""

    point: OperatingPoint
    bytes: int

    @classmethod
    def of(cls, point: OperatingPoint, size: float) -> Sending:
        """Return a frame's message of a point; `size` is relative to the mean of the point."""
        return cls(point, max(1, round(point.bytes * size)))


class Policy(Protocol):
    """What a device does for its frames."""

    def choose(self, spent_ms: float, backlog_bytes: int) -> OperatingPoint:
        """Return what the device begins to compute, `spent_ms` after the frame came."""

    def encode(
        self, chosen: OperatingPoint, size: float, spent_ms: float, backlog_bytes: int
    ) -> Sending:
        """Return the message that the device then sends.

        Args:
            chosen: what `choose` returned.
            size: of the frame's messages, relative to the means of their points.
            spent_ms: time since the frame came.
            backlog_bytes: bytes of earlier messages that are not carried yet.
        """

    def observe(self, sent_bytes: int, transfer_ms: float) -> None:
        """Take note of an answer, see `RateController.observe`."""

    def observe_timeout(self, sent_bytes: int, waited_ms: float) -> None:
        """Take note of a message that was given up."""


@dataclass(frozen=True)
class FixedPoint:
    """Sends all frames in one way."""

    point: OperatingPoint

    def choose(self, spent_ms: float, backlog_bytes: int) -> OperatingPoint:
        return self.point

    def encode(
        self, chosen: OperatingPoint, size: float, spent_ms: float, backlog_bytes: int
    ) -> Sending:
        return Sending.of(chosen, size)

    def observe(self, sent_bytes: int, transfer_ms: float) -> None:
        pass

    def observe_timeout(self, sent_bytes: int, waited_ms: float) -> None:
        pass


class ControlledPoints:
    """Sends each frame as the point that a controller chooses."""

    def __init__(self, controller: RateController) -> None:
        self._controller = controller
        self.choose = controller.choose
        self.observe = controller.observe
        self.observe_timeout = controller.observe_timeout

    def encode(
        self, chosen: OperatingPoint, size: float, spent_ms: float, backlog_bytes: int
    ) -> Sending:
        return Sending.of(chosen, size)


class ControlledBytes(ControlledPoints):
    """Sends each frame with the finest coding that fits, at the split that a controller chooses.

    The device tries codings on the frame itself, and so knows the bytes of each.
    """

    def __init__(self, controller: RateController, points: Sequence[OperatingPoint]) -> None:
        super().__init__(controller)
        self._codings: dict[int, list[OperatingPoint]] = {}
        for point in sorted(points, key=lambda p: (-p.quality, p.bytes)):
            self._codings.setdefault(point.split, []).append(point)

    def encode(
        self, chosen: OperatingPoint, size: float, spent_ms: float, backlog_bytes: int
    ) -> Sending:
        budget = self._controller.byte_budget(chosen, spent_ms, backlog_bytes)
        codings = self._codings[chosen.split]
        for point in codings:
            if (sending := Sending.of(point, size)).bytes <= budget:
                return sending
        return Sending.of(min(codings, key=lambda p: p.bytes), size)
