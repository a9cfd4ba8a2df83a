"""Conversions between moments as text and as numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from search.utils.timing import epoch_milliseconds

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_2200 = 7_258_118_400_000


@example(since_epoch=1_076_934_209_133, microseconds=0)  # as a float, a millisecond less
@given(st.integers(0, YEAR_2200), st.integers(0, 999))
def test_milliseconds_are_exact_and_rounded_down(since_epoch: int, microseconds: int) -> None:
    moment = EPOCH + timedelta(milliseconds=since_epoch, microseconds=microseconds)
    assert epoch_milliseconds(moment.isoformat()) == since_epoch
    assert epoch_milliseconds(moment.isoformat(timespec="milliseconds")) == since_epoch
