"""What the transfers of a device say about its link."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

LONGEST_LATENCY = 0.8
"""Of a transfer, at most this share counts as round trip: the rest is the time of its bytes."""
LEAST_MS = 0.1
"""No transfer counts as shorter; clocks are no finer where the server's time is subtracted."""
TIMEOUT_FACTOR = 2.0
"""A transfer that was given up counts as if it needed so many times what was waited for it."""
RECENT = 5
"""So many transfers say how large messages are, and bound the round trip."""
FIRST_SURPRISES = tuple(2 ** (eighths / 8) for eighths in range(-9, 6))
"""Of a link that is not known yet: from less than half of the estimate to one and a half."""


@dataclass(frozen=True)
class EstimateSettings:
    """How the rate of a link is estimated.

    Raises:
        ValueError: a value is out of range.
    """

    weight: float = 0.5
    """Of the last transfer in the estimate; each one before counts less by 1 - `weight`."""
    memory: int = 200
    """Number of transfers whose surprises are remembered."""
    rtt_ms: float = 0.0
    """Round trip of an empty message, until one is measured."""
    start_mbit: float | None = None
    """Rate before the first transfer, if one is known."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1 or self.memory < 1 or not self.rtt_ms >= 0:
            raise ValueError("weight is above 0 and at most 1, memory 1 or more, rtt_ms 0 or more")
        if self.start_mbit is not None and not self.start_mbit > 0:
            raise ValueError(f"start_mbit is {self.start_mbit}: expected a rate above 0")


class LinkEstimate:
    """The rate and the round trip of a link, and how far off the estimates of its rate were.

    A transfer of n bytes takes n / rate + rtt. The rate is estimated by the geometric mean of the
    earlier rates, in which a transfer counts half of the one after it. The surprise of a transfer
    is its rate relative to the estimate before it. The next one is as likely to have a rate as
    surprises were that large.

    The round trip is only needed roughly. Taken too short, it makes the rates of small messages
    too low. Larger messages then fit better than predicted, and messages grow until they take the
    time that there is: there the prediction is exact, whatever the round trip.
    """

    def __init__(self, settings: EstimateSettings) -> None:
        self._settings = settings
        self._transfers: deque[_Transfer] = deque(maxlen=RECENT)
        self._surprises = deque(FIRST_SURPRISES, maxlen=settings.memory)
        self._sorted_surprises = sorted(self._surprises)
        self._rtt_ms = settings.rtt_ms
        self._bytes_per_ms = settings.start_mbit and settings.start_mbit * 125

    @property
    def rtt_ms(self) -> float:
        """Round trip of an empty message."""
        shortest = min((transfer.ms for transfer in self._transfers), default=math.inf)
        return min(self._rtt_ms, LONGEST_LATENCY * shortest)

    @property
    def bytes_per_ms(self) -> float | None:
        """The rate; none before the first transfer, unless the settings have one."""
        return self._bytes_per_ms

    @property
    def largest_bytes(self) -> int | None:
        """Size of the largest recent transfer; none before the first."""
        return max((transfer.bytes for transfer in self._transfers), default=None)

    def chance(self, bytes_per_ms: float) -> float:
        """Return how likely the next transfer is at least so fast; 0 if no rate is known."""
        if self._bytes_per_ms is None:
            return 0.0
        slower = bisect_left(self._sorted_surprises, bytes_per_ms / self._bytes_per_ms)
        return 1 - slower / len(self._sorted_surprises)

    def rate_of(self, chance: float) -> float:
        """Return the highest rate, in bytes a millisecond, that is as likely; 0 if none is known.

        Args:
            chance: above 0.
        """
        if self._bytes_per_ms is None:
            return 0.0
        count = len(self._sorted_surprises)
        slower = math.floor((1 - chance) * count + 1e-9)
        return self._bytes_per_ms * self._sorted_surprises[min(slower, count - 1)]

    def add_transfer(self, sent_bytes: int, transfer_ms: float) -> None:
        """Take note of a transfer, the round trip included.

        Raises:
            ValueError: nothing was sent, or the time is negative.
        """
        if sent_bytes <= 0 or not 0 <= transfer_ms < math.inf:
            raise ValueError(f"no transfer: {sent_bytes} bytes in {transfer_ms} ms")
        self._transfers.append(_Transfer(sent_bytes, max(transfer_ms, LEAST_MS)))
        rate = sent_bytes / (self._transfers[-1].ms - self.rtt_ms)
        if self._bytes_per_ms is None:
            self._bytes_per_ms = rate
        else:
            surprise = rate / self._bytes_per_ms
            self._remember(surprise)
            self._bytes_per_ms *= surprise**self._settings.weight

    def add_timeout(self, sent_bytes: int, waited_ms: float) -> None:
        """Take note of a transfer that was given up.

        It never raises the estimate: a short wait tells nothing.
        """
        expected = self._rtt_ms + sent_bytes / (self._bytes_per_ms or sent_bytes)
        self.add_transfer(sent_bytes, max(TIMEOUT_FACTOR * waited_ms, expected))

    def set_round_trip(self, rtt_ms: float) -> None:
        """Take a measured round trip, such as the time that it took to open the connection.

        Raises:
            ValueError: it is negative or no number.
        """
        if not rtt_ms >= 0:
            raise ValueError(f"a round trip of {rtt_ms} ms")
        self._rtt_ms = rtt_ms

    def _remember(self, surprise: float) -> None:
        """Add a surprise; the oldest one is forgotten if there are too many."""
        if len(self._surprises) == self._surprises.maxlen:
            del self._sorted_surprises[bisect_left(self._sorted_surprises, self._surprises[0])]
        self._surprises.append(surprise)
        insort(self._sorted_surprises, surprise)


class _Transfer(NamedTuple):
    bytes: int
    ms: float
