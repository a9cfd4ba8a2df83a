"""A range coder in integers: rANS with many states side by side, so that NumPy runs it.

Source: Duda, "Asymmetric numeral systems", arXiv 1311.2540; for several states, Giesen,
"Interleaved entropy coders", arXiv 1402.3392.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spaces.split.damaged import DamagedMessage
from spaces.split.raw_bits import BitReader, Bits, Numbers, lowest_bits
from spaces.split.tables import PROBABILITY_BITS, CodingTables

WORD_BITS = 16
LOWEST = 1 << WORD_BITS
"""A state has this value or more, and less than 2^32."""
FEWEST_LANES, MOST_LANES = 8, 64
_LENGTH_BITS = 4


def encode(
    symbols: NDArray[np.int32], differences: NDArray[np.int32], tables: CodingTables, raw: Bits
) -> bytes:
    """Return symbols and raw bits as bytes.

    `differences` is the number of the table of each symbol, from 0. Each state begins with some of
    the raw bits, so that many states cost hardly more than one.
    """
    lanes = _lane_count(len(raw))
    states, kept = _initial_states(raw, lanes)
    frequencies = tables.frequencies[differences, symbols].astype(np.int64)
    starts = tables.starts[differences, symbols].astype(np.int64)
    limits = frequencies << (2 * WORD_BITS - PROBABILITY_BITS)
    blocks: list[Numbers] = []
    for first in range((len(symbols) - 1) // lanes * lanes, -1, -lanes):
        frequency, start = frequencies[first : first + lanes], starts[first : first + lanes]
        state = states[: len(frequency)]
        full = state >= limits[first : first + lanes]
        blocks.append(state[full] & (LOWEST - 1))
        np.right_shift(state, WORD_BITS, out=state, where=full)
        quotient, remainder = np.divmod(state, frequency)
        state[:] = (quotient << PROBABILITY_BITS) + remainder + start
    words = np.concatenate(blocks[::-1]) if blocks else np.zeros(0, np.int64)
    return b"".join(
        (
            bytes([lanes.bit_length() - 1]),
            np.packbits(_states_as_bits(states)).tobytes(),
            words.astype("<u2").tobytes(),
            np.packbits(raw[kept:]).tobytes(),
        )
    )


class Decoding:
    """The symbols of a payload, and then its raw bits.

    Raises:
        DamagedMessage: here and in `raw_bits`, the payload is not of this form.
    """

    def __init__(
        self, payload: bytes, differences: NDArray[np.int32], tables: CodingTables
    ) -> None:
        lanes = _lanes_of(payload)
        self._states, position = _states_of(payload, lanes)
        self._rest = payload[position:]
        self.symbols = self._decode(differences, tables)

    def _decode(self, differences: NDArray[np.int32], tables: CodingTables) -> NDArray[np.int32]:
        """Decode all symbols, and leave in `_rest` what comes after the words that they take."""
        states, lanes = self._states, len(self._states)
        words = np.frombuffer(self._rest, "<u2", len(self._rest) // 2).astype(np.int64)
        by_slot, mask = tables.symbols_by_slot.ravel(), (1 << PROBABILITY_BITS) - 1
        frequencies, starts = tables.frequencies.ravel(), tables.starts.ravel()
        slots_of = differences.astype(np.int64) << PROBABILITY_BITS
        tables_of = differences * tables.frequencies.shape[1]
        symbols, taken = np.zeros(len(differences), np.int32), 0
        for first in range(0, len(differences), lanes):
            state = states[: len(differences) - first]
            slot = state & mask
            symbol = by_slot[slots_of[first : first + lanes] + slot]
            symbols[first : first + lanes] = symbol
            row = tables_of[first : first + lanes] + symbol
            state[:] = frequencies[row] * (state >> PROBABILITY_BITS) + slot - starts[row]
            empty = (state < LOWEST).nonzero()[0]
            read = words[taken : taken + len(empty)]
            if len(read) < len(empty):
                raise DamagedMessage("the message ends too early")
            state[empty] = (state[empty] << WORD_BITS) | read
            taken += len(empty)
        self._rest = self._rest[2 * taken :]
        return symbols

    def raw_bits(self) -> Bits:
        """Return the raw bits, and the zeros behind them that fill a byte or a state."""
        if (self._states >> WORD_BITS != 1).any():
            raise DamagedMessage("the message does not end where its symbols do")
        kept = lowest_bits(self._states, np.full(len(self._states), WORD_BITS))
        return np.concatenate([kept, np.unpackbits(np.frombuffer(self._rest, np.uint8))])


def overhead_bits(raw_count: int) -> float:
    """Return the expected bits of a payload besides its symbols and `raw_count` raw bits."""
    lanes = _lane_count(raw_count)
    unused = max(0, lanes * WORD_BITS - raw_count)
    # Half a bit of a state's length is known already; both bit strings are filled up to bytes.
    return 8 + lanes * (_LENGTH_BITS + 0.5) + unused + 7


def _lane_count(raw_count: int) -> int:
    """Return so many states that raw bits fill them twice."""
    wanted = max(1, raw_count // (2 * WORD_BITS))
    return min(MOST_LANES, max(FEWEST_LANES, 1 << (wanted.bit_length() - 1)))


def _initial_states(raw: Bits, lanes: int) -> tuple[Numbers, int]:
    """Return the states with the first raw bits in them, and how many these are."""
    kept = min(len(raw), lanes * WORD_BITS)
    bits = np.zeros(lanes * WORD_BITS, np.int64)
    bits[:kept] = raw[:kept]
    weights = 1 << np.arange(WORD_BITS - 1, -1, -1)
    return LOWEST + bits.reshape(lanes, WORD_BITS) @ weights, kept


def _states_as_bits(states: Numbers) -> Bits:
    """Return how long each state is beyond 17 bits, and the bits of each after its first."""
    lengths = np.frexp(states.astype(np.float64))[1].astype(np.int64) - 1 - WORD_BITS
    widths = np.full(len(states), _LENGTH_BITS)
    return np.concatenate([lowest_bits(lengths, widths), lowest_bits(states, WORD_BITS + lengths)])


def _lanes_of(payload: bytes) -> int:
    if not payload or not FEWEST_LANES <= 1 << min(payload[0], 7) <= MOST_LANES:
        raise DamagedMessage("the message does not say how it is coded")
    return 1 << payload[0]


def _states_of(payload: bytes, lanes: int) -> tuple[Numbers, int]:
    """Return the states, and the position of the first byte after them."""
    reader = BitReader.of_bytes(payload[1 : 1 + lanes * 5])
    widths = WORD_BITS + reader.read_numbers(np.full(lanes, _LENGTH_BITS))
    states = (1 << widths) | reader.read_numbers(widths)
    return states, 1 + -(-reader.position // 8)
