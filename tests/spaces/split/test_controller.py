"""A controller's choices meet the deadline by its estimate, and follow the link's rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.split.coefficients import Coding
from spaces.split.controller import (
    MOST_RESERVE,
    BadOperatingPoints,
    ControllerSettings,
    RateController,
)
from spaces.split.link_estimate import EstimateSettings
from spaces.split.operating_point import OperatingPoint

DEADLINE, DEVICE, SERVER, RTT = 200.0, 20.0, 10.0, 30.0
LADDER = tuple(
    OperatingPoint(0, Coding(-step, 8), 1000 * 2 ** (step / 4), 1 - 2 ** (-1 - step / 4), 20, 10)
    for step in range(24)
)
"""From 1 KB on, each a quarter of an octave larger than the one before."""

Rate = Callable[[int], float]
"""Bytes per millisecond by frame."""


def settings(**changes: float | None) -> ControllerSettings:
    return ControllerSettings(
        estimate=EstimateSettings(rtt_ms=RTT),
        **changes,  # type: ignore[arg-type]
    )


def run(controller: RateController, rate: Rate, frames: int) -> list[OperatingPoint]:
    """Let a controller choose for frames, each of which the link carries at a rate."""
    chosen = []
    for frame in range(frames):
        point = controller.choose()
        transfer = point.bytes / rate(frame) + RTT
        controller.observe(round(point.bytes), transfer, DEVICE + transfer + SERVER)
        chosen.append(point)
    return chosen


def best_fitting(rate: float, of: ControllerSettings, reserve: float) -> OperatingPoint:
    budget = (DEADLINE - DEVICE - SERVER - RTT) * rate * (1 - reserve)
    fitting = [point for point in LADDER if point.bytes * of.spread <= budget]
    return fitting[-1] if fitting else LADDER[0]


@pytest.mark.parametrize("rate", [5.0, 50.0, 123.0, 500.0, 1e6])
def test_on_a_constant_link_it_ends_at_the_best_point_that_fits(rate: float) -> None:
    still = settings(reserve_step=0.0)
    chosen = run(RateController(LADDER, DEADLINE, still), lambda _: rate, 30)
    assert set(chosen[10:]) == {best_fitting(rate, still, still.reserve)}


def test_without_late_frames_the_reserve_vanishes() -> None:
    controller = RateController(LADDER, DEADLINE, settings())
    chosen = run(controller, lambda _: 100.0, 300)
    assert controller.reserve == 0
    assert chosen[-1] == best_fitting(100.0, controller.settings, 0)


def test_the_first_message_is_the_smallest_and_sizes_at_most_triple() -> None:
    chosen = run(RateController(LADDER, DEADLINE, settings()), lambda _: 1e6, 10)
    assert chosen[0] == LADDER[0]
    assert all(b.bytes <= 3 * a.bytes for a, b in pairwise(chosen))


def test_a_known_rate_counts_from_the_first_frame() -> None:
    known = EstimateSettings(rtt_ms=RTT, start_mbit=0.8)  # 100 bytes a millisecond
    controller = RateController(LADDER, DEADLINE, ControllerSettings(estimate=known))
    assert controller.choose() == best_fitting(100.0, controller.settings, 0.2)


def test_after_a_drop_the_next_frame_is_in_time_again() -> None:
    of = settings()
    chosen = run(RateController(LADDER, DEADLINE, of), lambda n: 400.0 if n < 30 else 40.0, 33)
    late = [p.bytes / (400 if n < 30 else 40) + RTT + 30 > DEADLINE for n, p in enumerate(chosen)]
    assert [n for n, was_late in enumerate(late) if was_late] == [30]


def test_after_a_rise_it_reaches_the_best_point_within_a_few_frames() -> None:
    still = settings(reserve_step=0.0)
    rates = [40.0] * 30 + [400.0] * 20
    chosen = run(RateController(LADDER, DEADLINE, still), lambda n: rates[n], 50)
    best = best_fitting(400.0, still, still.reserve)
    window, doublings = still.estimate.window, math.ceil(math.log2(400 / 40)) + 1
    assert chosen.index(best) - 30 <= window + doublings
    assert set(chosen[chosen.index(best) :]) == {best}


def test_one_slow_transfer_among_fast_ones_counts_for_one_frame() -> None:
    slow = 20
    still = settings(reserve_step=0.0)
    chosen = run(
        RateController(LADDER, DEADLINE, still), lambda n: 40.0 if n == slow else 400.0, 25
    )
    assert chosen[slow + 1].bytes < chosen[slow].bytes / 5
    assert chosen[slow + 2] == chosen[slow]


def test_if_nothing_fits_it_is_the_smallest_point_and_it_says_so() -> None:
    controller = RateController(LADDER, DEADLINE, settings())
    run(controller, lambda _: 1.0, 5)
    point = controller.choose()
    assert point == controller.smallest == LADDER[0]
    assert not controller.meets_deadline(point)
    assert controller.byte_budget(point) < point.bytes


def test_time_spent_and_bytes_before_it_lessen_the_budget_exactly() -> None:
    controller = RateController(LADDER, DEADLINE, settings(growth=1e9))
    controller.observe(4000, RTT + 40, 100)
    rate = 100 * (1 - controller.reserve)
    point = LADDER[0]
    full = (DEADLINE - DEVICE - SERVER - RTT) * rate
    assert controller.byte_budget(point) == int(full)
    assert controller.byte_budget(point, spent_ms=50.0) == int(full - 30 * rate)
    assert controller.byte_budget(point, backlog_bytes=1000) == int(full - 1000)
    assert controller.byte_budget(point, spent_ms=1000.0) == 0


def test_a_slower_server_is_expected_to_stay_so_for_a_while() -> None:
    controller = RateController(LADDER, DEADLINE, settings(growth=1e9))
    controller.observe(4000, RTT + 40, excess_ms=25.0)
    rate, left = 100 * (1 - controller.reserve), DEADLINE - DEVICE - SERVER - RTT
    assert controller.byte_budget(LADDER[0]) == int((left - 25) * rate)
    for _ in range(controller.settings.estimate.window):
        controller.observe(4000, RTT + 40, excess_ms=-5.0)
    assert controller.byte_budget(LADDER[0]) == int(left * rate)


def test_with_a_period_no_message_takes_the_link_for_longer() -> None:
    controller = RateController(LADDER, DEADLINE, settings(growth=1e9, period_ms=50.0))
    controller.observe(4000, RTT + 40, 100)
    assert controller.byte_budget(LADDER[0]) == int(50 * 100 * (1 - controller.reserve))


def test_the_reserve_follows_late_frames() -> None:
    controller = RateController(LADDER, DEADLINE, settings())
    controller.observe(5000, 300.0, DEADLINE + 1)
    assert controller.reserve == pytest.approx(0.2 + 0.05 * 0.97)
    controller.observe(5000, 100.0, DEADLINE)
    assert controller.reserve == pytest.approx(0.2 + 0.05 * 0.94)
    controller.observe(1000, 900.0, 5 * DEADLINE)
    assert controller.reserve == pytest.approx(0.2 + 0.05 * 0.94), "it could not be smaller"
    for _ in range(100):
        controller.observe_timeout(5000, DEADLINE)
    assert controller.reserve == MOST_RESERVE


def test_a_timeout_lowers_the_estimate_and_a_short_wait_does_not_raise_it() -> None:
    controller = RateController(LADDER, DEADLINE, settings())
    controller.observe(4000, RTT + 40, 100)
    controller.observe_timeout(4000, 0.5)
    assert controller.link.bytes_per_ms == pytest.approx(100)
    controller.observe_timeout(4000, 150.0)
    assert controller.link.bytes_per_ms == pytest.approx(4000 / (300 - RTT))


def test_a_wrong_round_trip_only_costs_frames() -> None:
    """Messages grow until they take the time that there is, where the prediction is exact."""
    without = ControllerSettings(reserve_step=0.0)
    chosen = run(RateController(LADDER, DEADLINE, without), lambda _: 100.0, 60)
    total = chosen[-1].bytes / 100 + RTT + DEVICE + SERVER
    assert chosen[-1] == chosen[-20]
    assert DEADLINE * (1 - without.reserve) / without.spread / 1.2 < total <= DEADLINE


points = st.builds(
    OperatingPoint,
    st.integers(0, 3),
    st.builds(Coding, st.integers(-40, 0), st.just(8)),
    st.floats(1, 1e6),
    st.floats(0, 1),
    st.floats(0, 300),
    st.floats(0, 300),
)
transfers = st.tuples(st.integers(1, 10**6), st.floats(0.01, 1e4), st.floats(0, 1e4))


@given(st.lists(points, min_size=1, max_size=8), st.lists(transfers, max_size=8), st.floats(0, 50))
def test_the_choice_is_the_best_that_the_estimate_allows(
    ladder: list[OperatingPoint], seen: list[tuple[int, float, float]], spent: float
) -> None:
    """Of the chosen point, and of none better, a large message is in time at the estimate."""
    controllers = [RateController(ladder, DEADLINE), RateController(ladder[::-1], DEADLINE)]
    for controller in controllers:
        for transfer in seen:
            controller.observe(*transfer)
    controller, reversed_one = controllers
    chosen = controller.choose(spent)
    assert chosen.quality == reversed_one.choose(spent).quality
    if controller.meets_deadline(chosen, spent):
        assert not any(
            p.quality > chosen.quality and controller.meets_deadline(p, spent) for p in ladder
        )
        if (rate := controller.link.bytes_per_ms) is not None:
            link_ms = controller.settings.spread * chosen.bytes / rate + controller.link.rtt_ms
            assert spent + chosen.device_ms + link_ms + chosen.server_ms <= DEADLINE + 1e-6
    else:
        assert chosen.bytes == min(p.bytes for p in ladder)


@pytest.mark.parametrize("deadline", [0.0, -1.0, math.nan])
def test_a_controller_refuses_what_it_cannot_do(deadline: float) -> None:
    with pytest.raises(BadOperatingPoints, match="deadline_ms"):
        RateController(LADDER, deadline)
    with pytest.raises(BadOperatingPoints, match="empty"):
        RateController([], DEADLINE)
    with pytest.raises(ValueError, match="no transfer"):
        RateController(LADDER, DEADLINE).observe(0, 10.0, 20.0)
    with pytest.raises(ValueError, match="round trip"):
        RateController(LADDER, DEADLINE).observe_round_trip(-1.0)
