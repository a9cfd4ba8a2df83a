"""How codecs are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Weight = Literal["answer", "none"]


@dataclass(frozen=True)
class CodecSettings:
    """How the codecs of splits are fitted."""

    weight: Weight = "answer"
    """What an error counts: its effect on the answers, or as much in every channel."""
    gradient_frames: int = 64
    """Frames on which the effect on the answers is measured."""
    zones: int = 8
    """Zones of frequencies; neighbouring ones share a map over channels where room is short."""
    device_bytes: int = 140_000
    """The most that the maps of one split take on the device, in float16; tables and scale classes
    take up to 10 kB more."""
    seed: int = 0
    batch: int = 16
    """Frames that run at once."""

    @property
    def device_values(self) -> int:
        """The most entries of the maps of one split."""
        return self.device_bytes // 2
