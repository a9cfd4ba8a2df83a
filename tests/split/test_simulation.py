"""The simulation of streams: by hand, by conservation of bytes, and its controllers' outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from search.split.streaming.comparison import compare_policies
from search.split.streaming.oracle import best_outcome
from search.split.streaming.policies import ControlledBytes, ControlledPoints, FixedPoint
from search.split.streaming.simulation import FrameStream, StreamOutcome, simulate
from search.split.streaming.traces import MOBILE_4G, TRACE_KINDS, LinkTrace, TraceKind
from spaces.split.coefficients import Coding
from spaces.split.controller import ControllerSettings, RateController
from spaces.split.link_estimate import EstimateSettings
from spaces.split.operating_point import OperatingPoint

LADDER = tuple(
    OperatingPoint(0, Coding(-k, 8), 1500 * 2 ** (k / 4), 1 - 0.25 * 2 ** (-0.3 * k), 15, 18)
    for k in range(17)
)


def constant(bytes_per_ms: float, rtt_ms: float) -> LinkTrace:
    return LinkTrace(np.array([bytes_per_ms / 125]), rtt_ms)


def test_a_tiny_stream_is_as_by_hand() -> None:
    """The device takes 20 ms, the link 10 bytes a millisecond, round trip and server 10 ms."""
    stream = FrameStream(100, 150, np.array([0.5, 1.0, 1.0, 3.0, 0.1, 0.5]))
    policy = FixedPoint(OperatingPoint(0, Coding(0, 8), 1000, 0.9, 20, 4))
    outcome = simulate(constant(10, 6), stream, policy)
    seen = [(f.start_ms, f.end_ms, f.answered_ms, f.in_time) for f in outcome.fates]
    assert seen == [
        (20, 70, 80, True),
        (120, 220, 230, True),
        (220, 320, 330, True),  # sent when it is ready, as the link is free
        (320, 450, math.inf, False),  # 3000 bytes: given up at its deadline
        (450, 460, 470, True),  # has waited for the one before, from 420 on
        (520, 570, 580, True),
    ]
    assert outcome.met == 5 / 6
    assert outcome.mean_bytes == pytest.approx(6100 / 6)
    assert outcome.quality_in_time == pytest.approx(0.9)
    assert outcome.quality == pytest.approx(0.9 * 5 / 6)


def test_a_slow_device_skips_frames_that_have_waited_too_long() -> None:
    policy = FixedPoint(OperatingPoint(0, Coding(0, 8), 10, 1.0, 90, 0))
    outcome = simulate(constant(10, 0), FrameStream(50, 100, np.ones(6)), policy)
    # from 0, 90 and 180 on; the third one is to be ready before 200, but takes until 270
    assert [fate.sent is not None for fate in outcome.fates][:2] == [True, False]
    assert [fate.in_time for fate in outcome.fates][:2] == [True, False]


streams = st.builds(
    FrameStream,
    st.floats(10, 200),
    st.floats(20, 400),
    st.lists(st.floats(0.2, 5), min_size=1, max_size=12).map(np.array),
)
traces = st.lists(st.floats(0.02, 20), min_size=1, max_size=8).map(
    lambda mbit: LinkTrace(np.array(mbit), 20.0)
)


def outcomes(trace: LinkTrace, stream: FrameStream) -> list[StreamOutcome]:
    controllers = [RateController(LADDER, stream.deadline_ms) for _ in range(2)]
    policies = (
        FixedPoint(LADDER[9]),
        ControlledPoints(controllers[0]),
        ControlledBytes(controllers[1], LADDER),
    )
    return [simulate(trace, stream, policy) for policy in policies]


@settings(max_examples=50)
@given(traces, streams)
def test_the_link_carries_one_message_after_another_and_no_byte_more(
    trace: LinkTrace, stream: FrameStream
) -> None:
    for outcome in outcomes(trace, stream):
        sent = [(fate, fate.sent) for fate in outcome.fates if fate.sent]
        for (before, _), (after, _) in pairwise(sent):
            assert before.end_ms <= after.start_ms
        for fate, sending in sent:
            carried = trace.carried(fate.end_ms) - trace.carried(fate.start_ms)
            if math.isinf(fate.answered_ms):
                assert carried <= sending.bytes + 1e-3
            else:
                assert carried == pytest.approx(sending.bytes, rel=1e-6, abs=1e-3)


@settings(max_examples=50)
@given(traces, streams)
def test_an_answer_counts_if_it_comes_before_the_deadline(
    trace: LinkTrace, stream: FrameStream
) -> None:
    for outcome in outcomes(trace, stream):
        for number, fate in enumerate(outcome.fates):
            arrived = number * stream.period_ms
            assert fate.in_time == (fate.answered_ms <= arrived + stream.deadline_ms)
            if fate.sent:
                assert fate.start_ms >= arrived + fate.sent.point.device_ms
        assert outcome.quality == pytest.approx(outcome.met * outcome.quality_in_time)


def test_a_byte_budget_is_kept_frame_by_frame() -> None:
    controller = RateController(LADDER, 200)
    controller.observe(8_000, 100.0)
    policy = ControlledBytes(controller, LADDER)
    budget = controller.byte_budget(LADDER[0], 20.0)
    for size in (0.3, 1.0, 1.7):
        sent = policy.encode(LADDER[0], size, 20.0, 0)
        finer = [p for p in LADDER if p.quality > sent.point.quality]
        assert sent.bytes <= budget
        assert all(round(p.bytes * size) > budget for p in finer)
    assert policy.encode(LADDER[0], 100.0, 20.0, 0).point == LADDER[0]


def test_sizes_are_drawn_as_told() -> None:
    made_up = FrameStream.log_normal(100, 200, 50_000, seed=0).sizes
    assert made_up.mean() == pytest.approx(1, abs=0.01)
    assert (made_up < 1.2).mean() == pytest.approx(0.95, abs=0.01)
    measured = FrameStream.measured(100, 200, 1000, 0, [100, 200, 300]).sizes
    assert set(measured) == {0.5, 1.0, 1.5}


@pytest.mark.parametrize("kind", TRACE_KINDS, ids=lambda kind: kind.name)
def test_a_controller_is_in_time_where_an_equally_good_point_is_not(kind: TraceKind) -> None:
    of = ControllerSettings(period_ms=100, estimate=EstimateSettings(rtt_ms=kind.rtt_ms))
    stream = FrameStream.log_normal(100, 200, 600, seed=5)
    compared = compare_policies(kind.trace(5, 60, 1.0), stream, LADDER, of)
    equal = compared.best_fixed_of(compared.bytes.quality_in_time)
    assert equal and 1 - compared.bytes.met < 0.6 * (1 - equal.outcome.met)
    assert compared.bytes.quality > compared.best_fixed.outcome.quality
    assert compared.bytes.met <= compared.oracle.met


@settings(max_examples=20, deadline=None)
@given(traces, streams)
def test_no_policy_has_more_frames_in_time_than_the_oracle(
    trace: LinkTrace, stream: FrameStream
) -> None:
    best = best_outcome(trace, stream, LADDER)
    for outcome in outcomes(trace, stream):
        assert (best.met, best.quality + 1e-9) > (outcome.met, outcome.quality)
    for before, after in pairwise([fate for fate in best.fates if fate.sent]):
        assert before.end_ms <= after.start_ms
    for number, fate in enumerate(best.fates):
        arrived = number * stream.period_ms
        assert fate.in_time == (fate.sent is not None)
        if fate.sent:
            assert fate.start_ms >= arrived + fate.sent.point.device_ms
            assert fate.end_ms == trace.end_ms(fate.start_ms, fate.sent.bytes)
            assert fate.answered_ms <= arrived + stream.deadline_ms


@settings(max_examples=20, deadline=None)
@given(traces, st.lists(st.floats(0.2, 5), min_size=1, max_size=5).map(np.array))
def test_the_oracle_is_as_good_as_the_best_of_all_ways(
    trace: LinkTrace, sizes: NDArray[np.float64]
) -> None:
    stream, points = FrameStream(80, 150, sizes), (LADDER[0], LADDER[8])
    best = best_outcome(trace, stream, points)
    every = [value_of(way, trace, stream) for way in product((None, *points), repeat=len(sizes))]
    assert max(every) == pytest.approx((best.met, best.quality))


def value_of(
    way: Sequence[OperatingPoint | None], trace: LinkTrace, stream: FrameStream
) -> tuple[float, float]:
    """Return the share in time and the quality if frames are sent so, in vain or not."""
    free, in_time = 0.0, [0.0]
    for number, point in enumerate(way):
        if point is not None:
            sent = max(1, round(point.bytes * stream.sizes[number]))
            free = trace.end_ms(max(number * stream.period_ms + point.device_ms, free), sent)
            total = free + trace.rtt_ms + point.server_ms - number * stream.period_ms
            in_time += [point.quality] if total <= stream.deadline_ms else []
    return (len(in_time) - 1) / len(way), sum(in_time) / len(way)


def test_equal_seeds_give_equal_outcomes() -> None:
    stream = FrameStream.log_normal(100, 200, 100, seed=1)
    trace = MOBILE_4G.trace(1, 10, 1.0)
    first, again = (compare_policies(trace, stream, LADDER, ControllerSettings()) for _ in "ab")
    assert first.to_dict() == again.to_dict()
