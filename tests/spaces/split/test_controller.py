"""A controller's choices meet the deadline by its estimate, and follow the link's rate."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.split.coefficients import Coding
from spaces.split.controller import (
    LEAST_CHANCE,
    BadOperatingPoints,
    ControllerSettings,
    RateController,
)
from spaces.split.link_estimate import (
    FIRST_SURPRISES,
    LEAST_MS,
    RECENT,
    EstimateSettings,
    LinkEstimate,
)
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
        controller.observe(round(point.bytes), transfer)
        chosen.append(point)
    return chosen


def fits(point: OperatingPoint, rate: float) -> bool:
    return point.bytes / rate + RTT + DEVICE + SERVER <= DEADLINE


def best_fitting(rate: float) -> OperatingPoint:
    return [point for point in LADDER if fits(point, rate)][-1]


@pytest.mark.parametrize("rate", [50.0, 123.0, 500.0, 1e6])
def test_on_a_constant_link_it_ends_at_the_best_point_that_fits(rate: float) -> None:
    """Once nothing but that rate is remembered, without any margin."""
    chosen = run(RateController(LADDER, DEADLINE, settings()), lambda _: rate, 250)
    memory = EstimateSettings().memory
    assert set(chosen[memory + 1 :]) == {best_fitting(rate)}
    assert all(fits(point, rate) for point in chosen)


def test_on_an_unsteady_link_it_sends_less_than_on_a_steady_one() -> None:
    """The geometric mean of the rates is the same."""
    draws = random.Random(0)
    rates = [100.0 * math.exp(0.3 * draws.gauss(0, 1)) for _ in range(400)]
    steady = run(RateController(LADDER, DEADLINE, settings()), lambda _: 100.0, 400)
    unsteady = run(RateController(LADDER, DEADLINE, settings()), rates.__getitem__, 400)
    assert mean_bytes(unsteady[200:]) < 0.8 * mean_bytes(steady[200:])
    late = [not fits(point, rate) for point, rate in zip(unsteady, rates, strict=True)]
    assert sum(late) < 0.05 * 400


def test_the_more_an_answer_is_worth_the_fewer_are_late() -> None:
    draws = random.Random(1)
    rates = [100.0 * math.exp(0.5 * draws.gauss(0, 1)) for _ in range(600)]
    late = []
    for worth in (0.0, 2.0, 20.0):
        chosen = run(
            RateController(LADDER, DEADLINE, settings(worth=worth)), rates.__getitem__, 600
        )
        late.append(sum(not fits(p, rate) for p, rate in zip(chosen, rates, strict=True)))
    assert late[0] > late[1] > late[2]


def mean_bytes(points: list[OperatingPoint]) -> float:
    return sum(point.bytes for point in points) / len(points)


def test_the_first_message_is_the_smallest_and_sizes_grow_step_by_step() -> None:
    of = settings()
    chosen = run(RateController(LADDER, DEADLINE, of), lambda _: 1e6, 12)
    assert chosen[0] == LADDER[0]
    for before, after in pairwise(chosen):
        allowed = [p for p in LADDER if p.bytes > of.growth * round(before.bytes)][:1]
        assert after.bytes <= (allowed or LADDER[-1:])[0].bytes
    assert chosen[-1] == LADDER[-1]


def test_a_gap_between_two_points_is_crossed() -> None:
    ladder = (LADDER[0], OperatingPoint(0, Coding(-40, 8), 12_000, 1.0, DEVICE, SERVER))
    chosen = run(RateController(ladder, DEADLINE, settings()), lambda _: 1e6, 10)
    assert chosen[0] == ladder[0]
    assert chosen[-1] == ladder[1]


def test_a_known_rate_counts_from_the_first_frame() -> None:
    known = EstimateSettings(rtt_ms=RTT, start_mbit=0.8)  # 100 bytes a millisecond
    controller = RateController(LADDER, DEADLINE, ControllerSettings(estimate=known))
    point = controller.choose()
    assert LADDER[0].bytes < point.bytes <= best_fitting(100.0).bytes


def test_after_a_lasting_drop_only_a_few_frames_are_late() -> None:
    """Half of the way to the new rate, in octaves, with each frame."""
    rates = [400.0] * 230 + [100.0] * 20
    chosen = run(RateController(LADDER, DEADLINE, settings()), rates.__getitem__, 250)
    late = [n for n, (p, rate) in enumerate(zip(chosen, rates, strict=True)) if not fits(p, rate)]
    assert late[0] == 230
    assert late[-1] < 230 + math.log2(math.log2(400 / 100) / 0.25) + 2


def test_after_a_rise_it_sends_larger_messages_within_a_few_frames() -> None:
    rates = [40.0] * 30 + [400.0] * 20
    chosen = run(RateController(LADDER, DEADLINE, settings()), rates.__getitem__, 50)
    assert chosen[40].bytes > 5 * chosen[29].bytes


def test_if_nothing_fits_it_is_the_smallest_point_and_it_says_so() -> None:
    controller = RateController(LADDER, DEADLINE, settings())
    run(controller, lambda _: 1.0, 5)
    point = controller.choose()
    assert point == controller.smallest == LADDER[0]
    assert not controller.meets_deadline(point)
    assert controller.byte_budget(point) < point.bytes


def test_time_spent_and_bytes_before_it_lessen_the_budget_exactly() -> None:
    """With one point, the budget is what half of the remembered transfers would carry."""
    controller = RateController(LADDER[:1], DEADLINE, settings(growth=1e9))
    point, left = LADDER[0], DEADLINE - DEVICE - SERVER - RTT
    for _ in range(controller.settings.estimate.memory + 1):
        controller.observe(4000, RTT + 40)
    assert controller.byte_budget(point) == int(left * 100)
    assert controller.byte_budget(point, spent_ms=50.0) == int((left - 30) * 100)
    assert controller.byte_budget(point, backlog_bytes=1000) == int(left * 100 - 1000)
    assert controller.byte_budget(point, spent_ms=1000.0) == 0


def test_a_slower_server_is_expected_to_stay_so_for_a_while() -> None:
    controller = RateController(LADDER[:1], DEADLINE, settings(growth=1e9))
    left = DEADLINE - DEVICE - SERVER - RTT
    for _ in range(controller.settings.estimate.memory + 1):
        controller.observe(4000, RTT + 40, excess_ms=25.0)
    assert controller.byte_budget(LADDER[0]) == int((left - 25) * 100)
    for _ in range(RECENT):
        controller.observe(4000, RTT + 40, excess_ms=-5.0)
    assert controller.byte_budget(LADDER[0]) == int(left * 100)


@given(st.lists(st.floats(20, 500), min_size=1, max_size=40), st.floats(0, 100))
def test_a_full_budget_is_as_likely_in_time_as_the_best_coding(
    rates: list[float], spent: float
) -> None:
    controller = RateController(LADDER, DEADLINE, settings(growth=1e9))
    for rate in rates:
        controller.observe(4000, RTT + 4000 / rate)
    chosen = controller.choose(spent)
    budget = controller.byte_budget(chosen, spent + DEVICE)
    chance = controller.chance(replace(chosen, bytes=budget), spent + DEVICE)
    if controller.meets_deadline(chosen, spent):
        assert budget >= int(chosen.bytes)
        assert chance == pytest.approx(controller.chance(chosen, spent + DEVICE))
    else:
        assert chosen == controller.smallest
        assert budget <= chosen.bytes


def test_with_a_period_no_message_takes_the_link_for_longer() -> None:
    controller = RateController(LADDER[:1], DEADLINE, settings(growth=1e9, period_ms=50.0))
    for _ in range(controller.settings.estimate.memory + 1):
        controller.observe(4000, RTT + 40)
    assert controller.byte_budget(LADDER[0]) == 50 * 100


def test_a_timeout_lowers_the_estimate_and_a_short_wait_does_not_raise_it() -> None:
    controller = RateController(LADDER, DEADLINE, settings())
    controller.observe(4000, RTT + 40)
    controller.observe_timeout(4000, 0.5)
    assert controller.link.bytes_per_ms == pytest.approx(100)
    controller.observe_timeout(4000, 150.0)
    assert controller.link.bytes_per_ms == pytest.approx(math.sqrt(100 * 4000 / (300 - RTT)))


@given(st.lists(st.floats(0.01, 1e4), max_size=30), st.integers(1, 20))
def test_chances_are_shares_of_the_remembered_surprises(rates: list[float], memory: int) -> None:
    link = LinkEstimate(EstimateSettings(memory=memory))
    surprises = list(FIRST_SURPRISES)
    for rate in rates:
        before = link.bytes_per_ms
        link.add_transfer(1000, 1000 / rate)
        surprises += [1000 / max(1000 / rate, LEAST_MS) / before] if before else []
    surprises = surprises[-memory:]
    for surprise in surprises if rates else []:
        assert link.bytes_per_ms
        needed = surprise * link.bytes_per_ms * (1 - 1e-9)
        chance = sum(s >= surprise * (1 - 1e-6) for s in surprises) / len(surprises)
        assert link.chance(needed) == pytest.approx(chance)
        assert link.rate_of(link.chance(needed)) == pytest.approx(surprise * link.bytes_per_ms)


def test_a_wrong_round_trip_only_costs_frames() -> None:
    """Messages grow until they take the time that there is, where the prediction is exact."""
    chosen = run(RateController(LADDER, DEADLINE, ControllerSettings()), lambda _: 100.0, 250)
    assert chosen[-1].bytes * 2**0.25 >= best_fitting(100.0).bytes
    assert all(fits(point, 100.0) for point in chosen)


points = st.builds(
    OperatingPoint,
    st.integers(0, 3),
    st.builds(Coding, st.integers(-40, 0), st.just(8)),
    st.floats(1, 1e6),
    st.floats(0, 1),
    st.floats(0, 300),
    st.floats(0, 300),
)
transfers = st.tuples(st.integers(1, 10**6), st.floats(0.01, 1e4), st.floats(0, 300))


@given(st.lists(points, min_size=1, max_size=8), st.lists(transfers, max_size=8), st.floats(0, 50))
def test_the_choice_is_of_the_largest_expected_value(
    ladder: list[OperatingPoint], seen: list[tuple[int, float, float]], spent: float
) -> None:
    controllers = [RateController(ladder, DEADLINE), RateController(ladder[::-1], DEADLINE)]
    for controller in controllers:
        for transfer in seen:
            controller.observe(*transfer)
    controller, reversed_one = controllers
    chosen = controller.choose(spent)
    assert chosen.quality == reversed_one.choose(spent).quality
    likely = [p for p in ladder if controller.meets_deadline(p, spent)]
    values = [(p.quality + 1) * controller.chance(p, spent + p.device_ms) for p in likely]
    if likely:
        chance = controller.chance(chosen, spent + chosen.device_ms)
        assert chance >= LEAST_CHANCE
        assert (chosen.quality + 1) * chance == max(values)
    else:
        assert chosen.bytes == min(p.bytes for p in ladder)


@pytest.mark.parametrize("deadline", [0.0, -1.0, math.nan])
def test_a_controller_refuses_what_it_cannot_do(deadline: float) -> None:
    with pytest.raises(BadOperatingPoints, match="deadline_ms"):
        RateController(LADDER, deadline)
    with pytest.raises(BadOperatingPoints, match="empty"):
        RateController([], DEADLINE)
    with pytest.raises(ValueError, match="no transfer"):
        RateController(LADDER, DEADLINE).observe(0, 10.0)
    with pytest.raises(ValueError, match="round trip"):
        RateController(LADDER, DEADLINE).observe_round_trip(-1.0)
