"""Quantise the coefficients of a frame, and turn them into bytes and back."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spaces.split import rans
from spaces.split.coefficients import Coding, CoefficientRows, Coefficients, Levels
from spaces.split.raw_bits import BitReader, Bits, growing_bits, growing_widths, lowest_bits
from spaces.split.tables import (
    COARSEST,
    DEAD_ZONE,
    ESCAPE,
    FINEST,
    CodingTables,
    count_low_bits,
    reconstruction_offsets,
)

LARGEST_LEVEL = 1 << 24
"""A magnitude beyond it is coded as it."""
_KEPT_CODINGS = 32


class CoefficientCoder:
    """Codes the coefficients of one frame; the coding is an argument of every call.

    Rows that are 0 almost always are not sent, but taken as 0: those whose scale class minus the
    step is below `COARSEST`.
    """

    def __init__(self, rows: CoefficientRows, tables: CodingTables) -> None:
        self.rows = rows
        self.tables = tables
        self._offsets = reconstruction_offsets()
        self._places = lru_cache(_KEPT_CODINGS)(self._find_places)

    def quantise(self, coefficients: Coefficients, coding: Coding) -> Levels:
        """Return the levels of the coefficients that are sent, and 0 for the others."""
        places = self._places(coding)
        levels = np.zeros(self.rows.total, np.int32)
        scaled = coefficients[places.sent] * np.float32(1 / coding.step_size)
        magnitudes = np.minimum(np.abs(scaled) + np.float32(1 - DEAD_ZONE), LARGEST_LEVEL)
        levels[places.sent] = np.copysign(np.floor(magnitudes), scaled).astype(np.int32)
        return levels

    def dequantise(self, levels: Levels, coding: Coding) -> Coefficients:
        """Return the mean coefficient of each level."""
        places = self._places(coding)
        coefficients = np.zeros(self.rows.total, np.float32)
        sent = levels[places.sent]
        offsets = self._offsets[places.differences] * (sent != 0)
        magnitudes = (np.abs(sent) + offsets) * coding.step_size
        coefficients[places.sent] = np.copysign(magnitudes, sent)
        return coefficients

    def encode(self, levels: Levels, coding: Coding) -> bytes:
        """Return the levels as a payload."""
        places = self._places(coding)
        split = _split(levels[places.sent], places)
        raw = np.concatenate([growing_bits(split.beyond), split.lowest, split.signs])
        return rans.encode(split.symbols, places.differences, self.tables, raw)

    def decode(self, payload: bytes, coding: Coding) -> Levels:
        """Return the levels of a payload.

        Raises:
            DamagedMessage: no encoder has written it with that coding.
        """
        places = self._places(coding)
        decoding = rans.Decoding(payload, places.differences, self.tables)
        reader = BitReader(decoding.raw_bits())
        symbols = decoding.symbols.astype(np.int64)
        escapes = symbols == ESCAPE
        beyond = [reader.read_growing() for _ in range(int(escapes.sum()))]
        symbols[escapes] += np.array(beyond, np.int64)
        magnitudes = (symbols << places.low_bits) | reader.read_numbers(places.low_bits)
        signs = np.zeros(len(magnitudes), np.int64)
        signs[magnitudes != 0] = reader.take(int(np.count_nonzero(magnitudes)))
        reader.check_end()
        levels = np.zeros(self.rows.total, np.int32)
        levels[places.sent] = np.minimum(magnitudes, LARGEST_LEVEL) * (1 - 2 * signs)
        return levels

    def count_bits(self, levels: Levels, coding: Coding) -> float:
        """Return the expected bits of a payload without coding it."""
        places = self._places(coding)
        split = _split(levels[places.sent], places)
        raw_count = len(split.lowest) + len(split.signs) + int(growing_widths(split.beyond).sum())
        symbol_bits = self.tables.bits[places.differences, split.symbols].sum()
        return float(symbol_bits) + raw_count + rans.overhead_bits(raw_count)

    def _find_places(self, coding: Coding) -> _Places:
        rows = self.rows
        row_differences = rows.classes - coding.step
        sent_rows = (row_differences >= COARSEST) & (rows.zones < coding.bands)
        differences = np.repeat(row_differences, rows.counts)
        sent = np.flatnonzero(np.repeat(sent_rows, rows.counts))
        of_sent = np.minimum(differences[sent], FINEST).astype(np.int32)
        return _Places(sent, of_sent - COARSEST, count_low_bits(of_sent).astype(np.int64))


class _Places(NamedTuple):
    """Which coefficients are sent with a coding."""

    sent: NDArray[np.int64]
    """(sent,) their numbers."""
    differences: NDArray[np.int32]
    """(sent,) the number of the table of each."""
    low_bits: NDArray[np.int64]
    """(sent,) bits of each that are sent as they are."""


class _SplitLevels(NamedTuple):
    """Levels as symbols and what they leave out."""

    symbols: NDArray[np.int32]
    beyond: NDArray[np.int64]
    """What the escaped symbols leave out."""
    lowest: Bits
    """The lowest bits of magnitudes."""
    signs: Bits
    """1 for each negative level, 0 for each positive one."""


def _split(levels: Levels, places: _Places) -> _SplitLevels:
    magnitudes = np.abs(levels).astype(np.int64)
    high = magnitudes >> places.low_bits
    escapes = high >= ESCAPE
    return _SplitLevels(
        np.minimum(high, ESCAPE).astype(np.int32),
        high[escapes] - ESCAPE,
        lowest_bits(magnitudes, places.low_bits),
        (levels[levels != 0] < 0).astype(np.uint8),
    )
