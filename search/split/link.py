"""A link of constant rate between a device and a server."""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_MBIT = 125_000


@dataclass(frozen=True)
class ConstantLink:
    """A link from a device to a server; the answer on the way back is taken as next to empty.

    Raises:
        ValueError: a value is out of range.
    """

    mbit: float
    """Rate, in 10^6 bits a second."""
    rtt_ms: float = 0.0
    """Round-trip time of an empty message."""
    loss: float = 0.0
    """Share of the rate that is lost, by packets that are sent again."""

    def __post_init__(self) -> None:
        if not self.mbit > 0 or not self.rtt_ms >= 0 or not 0 <= self.loss < 1:
            raise ValueError("mbit is above 0, rtt_ms at least 0, and loss at least 0 and below 1")

    @property
    def bytes_per_ms(self) -> float:
        """Bytes that get through in a millisecond."""
        return self.mbit * (1 - self.loss) * BYTES_PER_MBIT / 1000

    def transfer_ms(self, sent_bytes: float) -> float:
        """Return the time from the start of a message to its answer, without the server's."""
        return sent_bytes / self.bytes_per_ms + self.rtt_ms
