"""Traces carry what their rates say, and have the quantiles of their process."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.split.link import BYTES_PER_MBIT, ConstantLink
from search.split.streaming.traces import STEP_MS, TRACE_KINDS, LinkTrace, TraceKind

kinds = pytest.mark.parametrize("kind", TRACE_KINDS, ids=lambda kind: kind.name)
traces = st.lists(st.floats(0.01, 100), min_size=1, max_size=6).map(
    lambda mbit: LinkTrace(np.array(mbit))
)


def carried_by_steps(trace: LinkTrace, until_ms: int) -> float:
    """Add up the bytes of each millisecond."""
    rates = np.tile(trace.mbit, until_ms // int(trace.period_ms) + 1) * BYTES_PER_MBIT / 1000
    return float(rates.repeat(int(STEP_MS))[:until_ms].sum())


@given(traces, st.integers(0, 2000))
def test_a_trace_carries_the_sum_of_its_rates(trace: LinkTrace, until_ms: int) -> None:
    assert trace.carried(until_ms) == pytest.approx(carried_by_steps(trace, until_ms), abs=1e-6)


@given(traces, st.floats(0, 3000), st.floats(0, 1e6))
def test_a_message_ends_when_the_link_has_carried_it(
    trace: LinkTrace, start_ms: float, sent_bytes: float
) -> None:
    end = trace.end_ms(start_ms, sent_bytes)
    assert end >= start_ms
    carried = trace.carried(end) - trace.carried(start_ms)
    assert carried == pytest.approx(sent_bytes, rel=1e-6, abs=1e-3)


def test_a_constant_trace_is_a_link() -> None:
    trace, link = LinkTrace(np.full(3, 2.5), rtt_ms=20), ConstantLink(2.5, rtt_ms=20)
    for sent_bytes in (1, 1000, 500_000):
        end = trace.end_ms(70, sent_bytes)
        assert end - 70 + trace.rtt_ms == pytest.approx(link.transfer_ms(sent_bytes))


@kinds
def test_equal_seeds_give_equal_traces(kind: TraceKind) -> None:
    first, again, other = (kind.trace(seed, 30, 4).mbit for seed in (3, 3, 4))
    assert len(first) == 300
    assert (first == again).all() and (first != other).any()


@kinds
def test_a_long_trace_has_the_stated_quantiles(kind: TraceKind) -> None:
    mbit = kind.trace(1, 10_000, 4).mbit
    for share_of_median in (0.05, 0.25, 0.5, 1.0, 1.5):
        measured = float((mbit < 4 * share_of_median).mean())
        assert measured == pytest.approx(kind.share_below(share_of_median), abs=0.025)
    assert kind.share_below(1.0) == pytest.approx(0.5)


@kinds
def test_time_shares_stay_as_they_are_from_step_to_step(kind: TraceKind) -> None:
    assert kind.time_shares @ kind.transitions == pytest.approx(kind.time_shares)
    assert kind.time_shares.sum() == pytest.approx(1)
    stays = 1 / (1 - kind.transitions.diagonal()) * STEP_MS / 1000
    assert stays == pytest.approx([state.seconds for state in kind.states])


@pytest.mark.parametrize("mbit", [[], [1.0, 0.0], [1.0, float("nan")]])
def test_a_trace_refuses_rates_that_carry_nothing(mbit: list[float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        LinkTrace(np.array(mbit))
