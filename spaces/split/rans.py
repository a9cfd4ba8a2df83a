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
FEWEST_LANES, MOST_LANES = 4, 512
_LENGTH_BITS = 4
_MEAN_STATE_BITS, _MOST_STATE_BITS = 28, 35
"""Bits that a state is sent in: its length, and as many of its bits as that says, 16 to 31."""


def encode(
    symbols: NDArray[np.int32], differences: NDArray[np.int32], tables: CodingTables, raw: Bits
) -> bytes:
    """Return symbols and raw bits as bytes.

    `differences` is the number of the table of each symbol, from 0. Each state begins as what the
    first raw bits say, in the form in which states are sent: many states cost no more than one.
    """
    lanes = _lane_count(len(raw))
    filled = BitReader(np.concatenate([raw, np.zeros(lanes * _MOST_STATE_BITS, np.uint8)]))
    states = _read_states(filled, lanes)
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
            np.packbits(raw[filled.position :]).tobytes(),
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
        reader = BitReader.of_bytes(payload[1 : 1 + lanes * _MOST_STATE_BITS // 8 + 1])
        self._states = _read_states(reader, lanes)
        self._rest = payload[1 - (-reader.position // 8) :]
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
        rest = np.unpackbits(np.frombuffer(self._rest, np.uint8))
        return np.concatenate([_states_as_bits(self._states), rest])


def overhead_bits(raw_count: int) -> float:
    """Return the expected bits of a payload besides its symbols and `raw_count` raw bits."""
    unused = max(0, _lane_count(raw_count) * _MEAN_STATE_BITS - raw_count)
    # The number of states is a byte, and both bit strings are filled up to bytes.
    return 8 + unused + 7


def _lane_count(raw_count: int) -> int:
    """Return as many states as raw bits fill."""
    wanted = max(1, raw_count // _MEAN_STATE_BITS)
    return min(MOST_LANES, max(FEWEST_LANES, 1 << (wanted.bit_length() - 1)))


def _states_as_bits(states: Numbers) -> Bits:
    """Return how long each state is beyond 17 bits, and the bits of each after its first."""
    lengths = np.frexp(states.astype(np.float64))[1].astype(np.int64) - 1 - WORD_BITS
    widths = np.full(len(states), _LENGTH_BITS)
    return np.concatenate([lowest_bits(lengths, widths), lowest_bits(states, WORD_BITS + lengths)])


def _read_states(reader: BitReader, lanes: int) -> Numbers:
    """Return the states that `_states_as_bits` wrote."""
    widths = WORD_BITS + reader.read_numbers(np.full(lanes, _LENGTH_BITS))
    return (1 << widths) | reader.read_numbers(widths)


def _lanes_of(payload: bytes) -> int:
    if not payload or not FEWEST_LANES <= 1 << min(payload[0], 62) <= MOST_LANES:
        raise DamagedMessage("the message does not say how it is coded")
    return 1 << payload[0]
