"""Reading ahead changes when frames are read, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.data.frames import batch_ranges
from search.data.inputs.read_ahead import read_ahead


class Damaged(Exception):
    pass


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("frame-reader")]


def serial(read: Callable[[int], int], batches: list[range]) -> tuple[list[list[int]], str]:
    """Return all batches before the first error, and the error; empty if there is none."""
    finished = []
    for batch in batches:
        try:
            finished.append([read(index) for index in batch])
        except Damaged as error:
            return finished, str(error)
    return finished, ""


@given(st.integers(0, 40), st.integers(1, 9), st.sets(st.integers(0, 39), max_size=3))
def test_batches_and_errors_come_in_the_order_of_reading_one_by_one(
    count: int, size: int, damaged: set[int]
) -> None:
    def read(index: int) -> int:
        if index in damaged:
            raise Damaged(f"frame {index}")
        return index * index

    batches, finished, error = batch_ranges(count, size), [], ""
    try:
        for items in read_ahead(read, batches):
            finished.append(items)
    except Damaged as raised:
        error = str(raised)
    assert (finished, error) == serial(read, batches)
    assert readers() == []


def test_only_the_batch_after_the_present_one_is_read() -> None:
    begun: set[int] = set()

    def read(index: int) -> int:
        begun.add(index)
        return index

    for number, _ in enumerate(read_ahead(read, batch_ranges(20, 4))):
        assert {*range(4 * (number + 1))} <= begun <= {*range(4 * (number + 2))}


def test_the_next_batch_is_read_while_the_caller_works_on_one() -> None:
    read_by_now = threading.Semaphore(0)

    def read(index: int) -> int:
        read_by_now.release()
        return index

    for number, _ in enumerate(read_ahead(read, batch_ranges(12, 3))):
        for _ in range(3 if number else 6):
            if number < 3:
                assert read_by_now.acquire(timeout=60), "nobody reads while this loop waits"


def test_no_thread_outlives_an_iteration_that_the_caller_leaves() -> None:
    for _ in read_ahead(abs, batch_ranges(100, 5)):
        break
    assert readers() == []
    with pytest.raises(Damaged):
        for _ in read_ahead(abs, batch_ranges(100, 5)):
            raise Damaged
    assert readers() == []


def test_an_interrupt_between_two_batches_ends_the_reading() -> None:
    reading = read_ahead(abs, batch_ranges(1000, 10))
    assert next(reading) == list(range(10))
    with pytest.raises(KeyboardInterrupt):
        reading.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert readers() == []


def test_no_batches_are_no_iterations() -> None:
    assert [*read_ahead(abs, [])] == [] and readers() == []
