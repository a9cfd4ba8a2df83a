"""A split and a coding of a split bundle, with what they cost and the quality they keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spaces.split.coefficients import Coding


@dataclass(frozen=True)
class OperatingPoint:
    """What a device chooses from, frame by frame."""

    split: int
    """The number of the split within the bundle."""
    coding: Coding
    bytes: float
    """Of a message, as the mean over frames."""
    quality: float
    """Quality kept where it was measured, else 1 - the predicted change of the answers."""
    device_ms: float
    """The stages on the device and the encoder."""
    server_ms: float
    """The decoder and the stages on the server."""
    distortion: float | None = None
    """The predicted change of the answers by the codec, relative to their variance over frames."""
    bytes_p95: float | None = None
    """19 of 20 messages have no more, where it was measured."""

    def to_dict(self) -> dict[str, Any]:
        """Return the point as JSON data."""
        return asdict(self) | {"coding": self.coding._asdict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OperatingPoint:
        """Return the point that `to_dict` wrote."""
        return cls(**{**data, "coding": Coding(**data["coding"])})
