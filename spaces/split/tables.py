"""Integer tables of the probabilities of quantised coefficients, equal on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

PROBABILITY_BITS = 14
"""Every table sums to 2^14."""
FINEST, COARSEST = 44, -9
"""The range of the scale class of a row minus the step: a row beyond it has the nearest table, or
is not sent at all."""
SYMBOLS = 32
ESCAPE = SYMBOLS - 1
"""The last symbol stands for itself and all beyond: the rest follows in raw bits."""
DEAD_ZONE = 0.6
"""Multiples of the step size below which a magnitude becomes 0: it is rounded down from there."""
_WIDE = 8
"""Up to this difference, 4 steps to the octave, symbols are magnitudes; above it, magnitudes
without their lowest bits, which are as good as random."""


@dataclass(frozen=True, eq=False)
class CodingTables:
    """For each difference between scale class and step, how often each symbol is expected.

    The decoder must have the same integers as the encoder. They come with the codec, since
    logarithms and exponentials differ between machines in their last digit.

    Raises:
        ValueError: the frequencies are no tables.
    """

    frequencies: NDArray[np.int32]
    """(differences, symbols), from `COARSEST` to `FINEST`; each row sums to 2^14."""

    def __post_init__(self) -> None:
        shape = (FINEST - COARSEST + 1, SYMBOLS)
        sums = self.frequencies.sum(1)
        if self.frequencies.shape != shape or (self.frequencies < 1).any():
            raise ValueError(f"expected positive frequencies, {shape}")
        if (sums != 1 << PROBABILITY_BITS).any():
            raise ValueError("the frequencies do not sum to 2^14")

    @classmethod
    def laplace(cls) -> CodingTables:
        """Return the tables of coefficients with a Laplace distribution.

        With magnitudes of mean b and a step size s, a magnitude is beyond x s with the probability
        exp(-x s / b).
        """
        rows = [_laplace_frequencies(t) for t in range(COARSEST, FINEST + 1)]
        return cls(np.array(rows, np.int32))

    @cached_property
    def starts(self) -> NDArray[np.int32]:
        """(differences, symbols): the sum of the frequencies of all symbols before."""
        return (np.cumsum(self.frequencies, 1) - self.frequencies).astype(np.int32)

    @cached_property
    def symbols_by_slot(self) -> NDArray[np.uint8]:
        """(differences, 2^14): the symbol that each number below 2^14 belongs to."""
        symbols = np.arange(SYMBOLS, dtype=np.uint8)
        return np.stack([np.repeat(symbols, row) for row in self.frequencies])

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """(differences, symbols): the bits that each symbol costs."""
        costs: NDArray[np.float64] = PROBABILITY_BITS - np.log2(self.frequencies)
        return costs


def count_low_bits(difference: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return how many of the lowest bits of a magnitude are sent as they are."""
    return np.maximum(0, -((_WIDE - difference) // 4)).astype(np.int32)


def reconstruction_offsets() -> NDArray[np.float64]:
    """Return where the mean magnitude of a level lies above it, in steps, by difference."""
    scale = 2.0 ** (np.arange(COARSEST, FINEST + 1) / 4)
    # the mean of an exponential distribution of that scale within one step
    return DEAD_ZONE - 1 + scale - 1 / np.expm1(1 / scale)


def _laplace_frequencies(difference: int) -> NDArray[np.int64]:
    scale = 2.0 ** (difference / 4)
    width = 1 << int(count_low_bits(np.array(difference, np.int32)))
    edges = np.arange(1, SYMBOLS) * width - 1 + DEAD_ZONE
    beyond = np.concatenate([[1.0], np.exp(-edges / scale), [0.0]])
    exact = -np.diff(beyond) * (1 << PROBABILITY_BITS)
    frequencies: NDArray[np.int64] = np.maximum(1, np.rint(exact)).astype(np.int64)
    frequencies[frequencies.argmax()] -= frequencies.sum() - (1 << PROBABILITY_BITS)
    return frequencies
