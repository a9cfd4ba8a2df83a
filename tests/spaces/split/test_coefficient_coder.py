"""Theorems of the coefficient coder: it loses nothing, costs what its tables say, and refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spaces.split import rans
from spaces.split.coefficient_coder import LARGEST_LEVEL, CoefficientCoder
from spaces.split.coefficients import Coding, CoefficientRows, Coefficients
from spaces.split.damaged import DamagedMessage
from spaces.split.message import HEADER_BYTES, Message
from spaces.split.raw_bits import BitReader, growing_bits, growing_widths, lowest_bits
from spaces.split.tables import COARSEST, DEAD_ZONE, ESCAPE, CodingTables

TABLES = CodingTables.laplace()
ZONE_SIZES = (5, 10, 17, 24, 30, 35, 38, 37)
STEPS = (-24, -12, -4, 0, 4, 8, 12, 20)


def laplace_frame(seed: int, channels: int = 32) -> tuple[CoefficientRows, Coefficients]:
    """Return rows of very different scales, and coefficients with the distribution of tables."""
    generator = np.random.default_rng(seed)
    zones = np.tile(np.arange(len(ZONE_SIZES), dtype=np.int32), channels)
    counts = np.tile(np.array(ZONE_SIZES, np.int32), channels)
    scales = np.repeat(np.exp(generator.normal(0, 1.5, channels)), len(ZONE_SIZES)) / (1 + zones)
    classes = np.rint(4 * np.log2(scales)).astype(np.int32)
    values = generator.laplace(0, np.repeat(scales, counts))
    return CoefficientRows(counts, zones, classes), values.astype(np.float32)


@pytest.mark.parametrize("step", STEPS)
def test_decoding_returns_the_levels(step: int) -> None:
    rows, coefficients = laplace_frame(seed=1)
    coder, coding = CoefficientCoder(rows, TABLES), Coding(step, 8)
    levels = coder.quantise(coefficients, coding)
    np.testing.assert_array_equal(coder.decode(coder.encode(levels, coding), coding), levels)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(-40, 90)), max_size=12),
    st.integers(-30, 30),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_any_levels_come_back(
    rows: list[tuple[int, int, int]], step: int, bands: int, seed: int
) -> None:
    counts, zones, classes = np.array(rows, np.int32).reshape(-1, 3).T
    coder = CoefficientCoder(CoefficientRows(counts, zones, classes), TABLES)
    coding = Coding(step, bands)
    generator = np.random.default_rng(seed)
    levels = np.rint(generator.standard_cauchy(int(counts.sum())) * 10**2).clip(-1e6, 1e6)
    sent = np.repeat((classes - step >= COARSEST) & (zones < bands), counts)
    levels = np.where(sent, levels, 0).astype(np.int32)
    np.testing.assert_array_equal(coder.decode(coder.encode(levels, coding), coding), levels)


@pytest.mark.parametrize("step", STEPS)
def test_a_payload_has_the_bits_that_the_tables_say(step: int) -> None:
    rows, coefficients = laplace_frame(seed=2)
    coder, coding = CoefficientCoder(rows, TABLES), Coding(step, 8)
    levels = coder.quantise(coefficients, coding)
    expected = coder.count_bits(levels, coding)
    assert 8 * len(coder.encode(levels, coding)) == pytest.approx(expected, rel=0.005, abs=48)


@pytest.mark.parametrize("step", [-12, 0, 6])
def test_no_coder_with_these_tables_would_be_much_shorter(step: int) -> None:
    """A range coder of a library, given the same probabilities, is the oracle."""
    constriction = pytest.importorskip("constriction")
    rows, coefficients = laplace_frame(seed=3)
    coder, coding = CoefficientCoder(rows, TABLES), Coding(step, 8)
    levels = coder.quantise(coefficients, coding)
    differences = np.repeat(rows.classes - step, rows.counts)
    encoder = constriction.stream.queue.RangeEncoder()
    raw_bits = 0
    for difference in np.unique(differences[differences >= COARSEST]).tolist():
        magnitudes = np.abs(levels[differences == difference])
        width = max(0, -((8 - difference) // 4))
        symbols = np.minimum(magnitudes >> width, ESCAPE)
        probabilities = TABLES.frequencies[difference - COARSEST] / 2.0**14
        model = constriction.stream.model.Categorical(probabilities, perfect=False)
        encoder.encode(symbols.astype(np.int32), model)
        beyond = ((magnitudes >> width) - ESCAPE)[symbols == ESCAPE].astype(np.int64)
        raw_bits += np.count_nonzero(magnitudes) + width * len(magnitudes)
        raw_bits += int(growing_widths(beyond).sum())
    shortest = 4 * len(encoder.get_compressed()) + raw_bits / 8
    assert len(coder.encode(levels, coding)) <= 1.01 * shortest + 16


def test_levels_are_rounded_with_a_dead_zone() -> None:
    rows = CoefficientRows(*(np.array([value], np.int32) for value in (7, 0, 0)))
    coder = CoefficientCoder(rows, TABLES)
    values = np.array([0, 0.59, -0.59, 0.61, -1.59, -1.61, 2.7], np.float32)
    for step in (0, 4, -8):
        coding = Coding(step, 1)
        levels = coder.quantise(values * np.float32(coding.step_size), coding)
        assert levels.tolist() == [0, 0, 0, 1, -1, -2, 3]


def test_a_level_stands_for_the_mean_of_its_coefficients() -> None:
    """Of a Laplace distribution, whose scale is the class of the row."""
    count = 200_000
    values = np.random.default_rng(4).laplace(0, 1, count).astype(np.float32)
    rows = CoefficientRows(*(np.array([value], np.int32) for value in (count, 0, 0)))
    coder, coding = CoefficientCoder(rows, TABLES), Coding(-4, 1)
    levels = coder.quantise(values, coding)
    restored = coder.dequantise(levels, coding)
    for level in (-2, -1, 1, 2, 3):
        chosen = levels == level
        assert restored[chosen].mean() == pytest.approx(values[chosen].mean(), rel=0.01)
    assert not restored[levels == 0].any()


def test_no_coefficient_moves_further_than_a_step() -> None:
    rows, coefficients = laplace_frame(seed=5)
    coder = CoefficientCoder(rows, TABLES)
    for step in STEPS:
        coding = Coding(step, 8)
        restored = coder.dequantise(coder.quantise(coefficients, coding), coding)
        sent = np.repeat(rows.classes - step >= COARSEST, rows.counts)
        errors = np.abs(restored - coefficients)[sent]
        assert errors.max() <= max(DEAD_ZONE, 1.0) * coding.step_size * 1.001


def test_bands_leave_out_the_higher_zones_and_nothing_else() -> None:
    rows, coefficients = laplace_frame(seed=6)
    coder = CoefficientCoder(rows, TABLES)
    everything = coder.quantise(coefficients, Coding(-4, 8))
    for bands in (1, 3, 8):
        levels = coder.quantise(coefficients, Coding(-4, bands))
        kept = np.repeat(rows.zones < bands, rows.counts)
        np.testing.assert_array_equal(levels, np.where(kept, everything, 0))


def test_another_process_decodes_the_same_levels() -> None:
    rows, coefficients = laplace_frame(seed=7)
    coder, coding = CoefficientCoder(rows, TABLES), Coding(2, 8)
    levels = coder.quantise(coefficients, coding)
    script = (
        "import sys; import numpy as np\n"
        "from test_coefficient_coder import TABLES, laplace_frame\n"
        "from spaces.split.coefficient_coder import CoefficientCoder\n"
        "from spaces.split.coefficients import Coding\n"
        "coder = CoefficientCoder(laplace_frame(seed=7)[0], TABLES)\n"
        "levels = coder.decode(sys.stdin.buffer.read(), Coding(2, 8))\n"
        "sys.stdout.buffer.write(levels.astype('<i4').tobytes())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=coder.encode(levels, coding),
        capture_output=True,
        check=True,
        cwd=__file__.rpartition("/")[0],
    )
    np.testing.assert_array_equal(np.frombuffer(run.stdout, "<i4"), levels)


def test_tables_are_probabilities_that_never_rule_a_symbol_out() -> None:
    assert (TABLES.frequencies >= 1).all()
    assert (TABLES.frequencies.sum(1) == 1 << 14).all()
    with pytest.raises(ValueError, match="sum"):
        CodingTables(TABLES.frequencies + 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**30), max_size=20))
def test_growing_numbers_come_back(numbers: list[int]) -> None:
    reader = BitReader(growing_bits(np.array(numbers, np.int64)))
    assert [reader.read_growing() for _ in numbers] == numbers
    reader.check_end()


def test_lowest_bits_come_back() -> None:
    widths = np.array([3, 0, 1, 12])
    numbers = np.array([5, 0, 1, 4000])
    bits = lowest_bits(numbers, widths)
    assert bits.tolist()[:4] == [1, 0, 1, 1]
    np.testing.assert_array_equal(BitReader(bits).read_numbers(widths), numbers)


def test_a_damaged_payload_is_refused_or_decoded_but_never_crashes() -> None:
    """Behind the checksum, the coder itself must withstand any bytes."""
    rows, coefficients = laplace_frame(seed=8, channels=4)
    coder, coding = CoefficientCoder(rows, TABLES), Coding(-4, 8)
    payload = coder.encode(coder.quantise(coefficients, coding), coding)
    generator = np.random.default_rng(9)
    refused = 0
    for _ in range(400):
        damaged = bytearray(payload[: generator.integers(len(payload) + 1)])
        for place in generator.integers(max(1, len(damaged)), size=3):
            if damaged:
                damaged[place] = generator.integers(256)
        try:
            levels = coder.decode(bytes(damaged), coding)
        except DamagedMessage:
            refused += 1
        else:
            assert levels.shape == (rows.total,)
            assert np.abs(levels).max() <= LARGEST_LEVEL
    assert refused > 380


def test_a_message_comes_back() -> None:
    message = Message(0xDEADBEEF, 3, Coding(-17, 8), (1080, 1920), b"payload")
    data = message.to_bytes()
    assert Message.parse(data) == message
    assert len(data) == HEADER_BYTES + len(b"payload")


def test_no_changed_message_is_accepted() -> None:
    data = Message(1, 0, Coding(5, 4), (480, 640), bytes(range(200))).to_bytes()
    generator = np.random.default_rng(10)
    for _ in range(10_000):
        changed = _changed(data, generator)
        if changed != data:
            with pytest.raises(DamagedMessage):
                Message.parse(changed)


def _changed(data: bytes, generator: np.random.Generator) -> bytes:
    """Return a message with flipped bits, cut short, prolonged, or of random bytes."""
    kind = generator.integers(4)
    if kind == 0:
        return data[: generator.integers(len(data))]
    if kind == 1:
        return data + generator.bytes(int(generator.integers(1, 20)))
    if kind == 2:
        return generator.bytes(int(generator.integers(0, 300)))
    changed = bytearray(data)
    for place in generator.integers(len(data), size=generator.integers(1, 4)):
        changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def test_states_begin_with_raw_bits_so_that_many_cost_hardly_more_than_one() -> None:
    raw: NDArray[np.uint8] = np.random.default_rng(11).integers(0, 2, 2048).astype(np.uint8)
    nothing = np.zeros(0, np.int32)
    payload = rans.encode(nothing, nothing, TABLES, raw)
    assert payload[0] == 6  # 64 states
    assert len(payload) <= 2048 / 8 + 1 + 64 * 4 / 8
