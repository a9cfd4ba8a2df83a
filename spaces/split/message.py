"""What a device sends for one frame: a header and the payload."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from spaces.split.coefficients import Coding
from spaces.split.damaged import DamagedMessage
from spaces.tasks.task import FrameSize

MAGIC, MESSAGE_VERSION = b"ms", 1
_HEADER = struct.Struct("<2sBBbBIHH")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
SENDABLE_STEPS = range(-128, 128)
"""The steps that a message can tell."""
LARGEST_SIDE = 65535
"""Pixels of a frame's height and width, at most."""
MOST_PIXELS = 1 << 25
"""Of a frame: one in 8K has fewer. Answers may be of its size, and a server must not be made to
build larger ones by a few bytes."""


def has_possible_size(size: FrameSize) -> bool:
    """Return whether a message can be about a frame of that size."""
    return all(0 < side <= LARGEST_SIDE for side in size) and size[0] * size[1] <= MOST_PIXELS


@dataclass(frozen=True)
class Message:
    """One frame, coded by a device.

    Raises:
        ValueError: a number is out of range.
    """

    bundle: int
    """The first 32 bits of the hash of the bundle whose device sends it."""
    split: int
    """The number of the split within the bundle, from 0 to 255."""
    coding: Coding
    frame_size: FrameSize
    payload: bytes

    def __post_init__(self) -> None:
        if not has_possible_size(self.frame_size):
            raise ValueError(f"a frame of {self.frame_size} pixels")

    def to_bytes(self) -> bytes:
        """Return the message with a checksum."""
        header = _HEADER.pack(
            MAGIC, MESSAGE_VERSION, self.split, *self.coding, self.bundle, *self.frame_size
        )
        return header + _CHECKSUM.pack(zlib.crc32(self.payload, zlib.crc32(header))) + self.payload

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """Return the message that `to_bytes` wrote.

        Raises:
            DamagedMessage: it is none, of another version, or was changed on its way.
        """
        if len(data) < HEADER_BYTES or data[:2] != MAGIC:
            raise DamagedMessage(f"{len(data)} bytes are no message of a device")
        _, version, split, step, bands, bundle, *sides = _HEADER.unpack_from(data)
        if version != MESSAGE_VERSION:
            raise DamagedMessage(
                f"the message is of version {version}; expected {MESSAGE_VERSION}"
            )
        (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
        payload = data[HEADER_BYTES:]
        if checksum != zlib.crc32(payload, zlib.crc32(data[: _HEADER.size])):
            raise DamagedMessage("the message was changed on its way: its checksum is wrong")
        try:
            return cls(bundle, split, Coding(step, bands), (sides[0], sides[1]), payload)
        except ValueError as error:
            raise DamagedMessage(f"the message is of {error}") from error
