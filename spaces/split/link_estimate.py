"""What the recent transfers of a device say about its link."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

LONGEST_LATENCY = 0.8
"""Of a transfer, at most this share counts as round trip: the rest is the time of its bytes."""
LEAST_MS = 0.1
"""No transfer counts as shorter; clocks are no finer where the server's time is subtracted."""
TIMEOUT_FACTOR = 2.0
"""A transfer that was given up counts as if it needed so many times what was waited for it."""


@dataclass(frozen=True)
class EstimateSettings:
    """How the rate of a link is estimated.

    Raises:
        ValueError: a value is out of range.
    """

    window: int = 5
    """Number of transfers that are remembered."""
    quantile: float = 0.25
    """The estimate is at most this quantile of the remembered rates."""
    rtt_ms: float = 0.0
    """Round trip of an empty message, until one is measured."""
    start_mbit: float | None = None
    """Rate before the first transfer, if one is known."""

    def __post_init__(self) -> None:
        if self.window < 1 or not 0 <= self.quantile <= 1 or not self.rtt_ms >= 0:
            raise ValueError("window is 1 or more, quantile from 0 to 1, rtt_ms 0 or more")
        if self.start_mbit is not None and not self.start_mbit > 0:
            raise ValueError(f"start_mbit is {self.start_mbit}: expected a rate above 0")


class LinkEstimate:
    """The rate and the round trip of a link: the rate falls at once, and rises slowly.

    A transfer of n bytes takes n / rate + rtt. The rate is the smaller of that of the last
    transfer, so that a drop counts at once, and of a low quantile of the last ones, so that a rise
    counts once most of them agree.

    The round trip is only needed roughly. Taken too short, it makes the rates of small messages
    too low. Larger messages then fit better than predicted, and messages grow until they take the
    time that there is: there the prediction is exact, whatever the round trip.
    """

    def __init__(self, settings: EstimateSettings) -> None:
        self._settings = settings
        self._transfers: deque[_Transfer] = deque(maxlen=settings.window)
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
        """Size of the largest remembered transfer; none before the first."""
        return max((transfer.bytes for transfer in self._transfers), default=None)

    def add_transfer(self, sent_bytes: int, transfer_ms: float) -> None:
        """Take note of a transfer, the round trip included.

        Raises:
            ValueError: nothing was sent, or the time is negative.
        """
        if sent_bytes <= 0 or not 0 <= transfer_ms < math.inf:
            raise ValueError(f"no transfer: {sent_bytes} bytes in {transfer_ms} ms")
        self._transfers.append(_Transfer(sent_bytes, max(transfer_ms, LEAST_MS)))
        rtt = self.rtt_ms
        rates = [transfer.bytes / (transfer.ms - rtt) for transfer in self._transfers]
        low = sorted(rates)[int(self._settings.quantile * (len(rates) - 1))]
        self._bytes_per_ms = min(rates[-1], low)

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


class _Transfer(NamedTuple):
    bytes: int
    ms: float
