"""Bits that are sent as they are: signs, the lowest bits of magnitudes, and large magnitudes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spaces.split.damaged import DamagedMessage

LONGEST_NUMBER = 31
"""Bits of the largest number that `growing_bits` takes."""


Bits = NDArray[np.uint8]
"""Zeros and ones."""
Numbers = NDArray[np.int64]


def lowest_bits(numbers: Numbers, widths: Numbers) -> Bits:
    """Return the lowest bits of each number, the highest of them first; `widths` says how many."""
    shifts, owners = _bit_places(widths)
    return (numbers[owners] >> shifts & 1).astype(np.uint8)


def growing_bits(numbers: Numbers) -> Bits:
    """Return numbers from 0 on, the small ones in few bits.

    Source: Golomb's code in its exponential form, Teuhola 1978.
    """
    return lowest_bits(numbers + 1, growing_widths(numbers))


def growing_widths(numbers: Numbers) -> Numbers:
    """Return how many bits `growing_bits` takes for each number."""
    widths: Numbers = 2 * np.frexp(numbers + 1.0)[1].astype(np.int64) - 1
    return widths


def _bit_places(widths: Numbers) -> tuple[Numbers, Numbers]:
    """Return the shift of each bit, and the number that it belongs to."""
    owners = np.repeat(np.arange(len(widths)), widths)
    ends = np.repeat(np.cumsum(widths), widths)
    return ends - 1 - np.arange(len(owners)), owners


class BitReader:
    """Reads bits from the first on.

    Raises:
        DamagedMessage: by every method, there are not so many bits, or no such number.
    """

    def __init__(self, bits: Bits) -> None:
        self._bits = bits
        self.position = 0

    @classmethod
    def of_bytes(cls, content: bytes) -> BitReader:
        """Return a reader of the bits of bytes, the highest of each first."""
        return cls(np.unpackbits(np.frombuffer(content, np.uint8)))

    def take(self, count: int) -> Bits:
        """Return the next bits."""
        bits = self._bits[self.position : self.position + count]
        if len(bits) < count:
            raise DamagedMessage("the message ends too early")
        self.position += count
        return bits

    def read_numbers(self, widths: Numbers) -> Numbers:
        """Return the numbers of `lowest_bits`."""
        shifts, owners = _bit_places(widths)
        bits = self.take(len(shifts)).astype(np.int64)
        numbers = np.zeros(len(widths), np.int64)
        np.add.at(numbers, owners, bits << shifts)
        return numbers

    def read_growing(self) -> int:
        """Return the next number of `growing_bits`."""
        zeros = 0
        while not self.take(1)[0]:
            zeros += 1
            if zeros > LONGEST_NUMBER:
                raise DamagedMessage("the message holds a number that no coefficient has")
        return (1 << zeros | int(self.read_numbers(np.array([zeros]))[0])) - 1

    def check_end(self) -> None:
        """Check that nothing but zeros is left, which fill the last byte or a state."""
        if self._bits[self.position :].any():
            raise DamagedMessage("the message goes on after its last coefficient")
