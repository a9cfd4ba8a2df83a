"""Frames as networks take them, kept in memory for the next time that they are read.

Frames that are held out are read in every phase of a search. At the resolution of cameras,
decoding and resizing them takes as long as a small network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from cachetools import LRUCache
from torch import Tensor

from spaces.inputs import InputSpec
from spaces.tasks.task import FrameSize

MOST_BYTES = 2**28
"""Bytes of the frames that are kept: those that were read last."""


@dataclass(frozen=True)
class FittedFrame:
    """A frame, fitted to the inputs of some networks."""

    by_spec: Mapping[InputSpec, Tensor]
    """(channels, height, width), uint8"""
    size: FrameSize
    """(height, width) of the frame in its own pixels, whatever was decoded."""

    @property
    def nbytes(self) -> int:
        """Bytes that its tensors keep in memory."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.by_spec.values())


class FittedFrames:
    """The frames that were read last, by keys that say what they show and how they are fitted."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._kept: LRUCache[Hashable, FittedFrame] = LRUCache(
            most_bytes, getsizeof=lambda frame: frame.nbytes
        )
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], FittedFrame]) -> FittedFrame:
        """Return the frame of a key, read if it is not kept; several threads may ask."""
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            return kept
        frame = read()
        if frame.nbytes <= self._kept.maxsize:
            with self._lock:
                self._kept[key] = frame
        return frame

    @property
    def nbytes(self) -> int:
        """Bytes of all frames that are kept."""
        return int(self._kept.currsize)


KEPT = FittedFrames()
"""Those of this process."""
