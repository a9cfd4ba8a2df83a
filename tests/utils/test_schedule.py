"""Schedules: properties, a slow reference for crontab lines, and clock changes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.utils.schedule import MAX_CLOCK_CHANGE, MAX_COUNTED, Due, Schedule, SystemClock

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def moments(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    """Return all times that are due in (start, end]."""
    while (start := schedule.after(start)) <= end:
        yield start


# A slow reference: it checks every minute against the crontab line.

NAMES = {name: number for number, name in enumerate("sun mon tue wed thu fri sat".split())}
NAMES |= {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}


def field_names(field: str, value: int, low: int, high: int) -> bool:
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin = low if first == "*" else NAMES[first] if first in NAMES else int(first)
        if first == "*" or (step and not last):
            end = high
        else:
            end = begin if not last else NAMES[last] if last in NAMES else int(last)
        end = 7 if last == "sun" else end
        if value in range(begin, end + 1, int(step or 1)):
            return True
    return False


def is_due(text: str, wall: datetime) -> bool:
    minute, hour, day, month, weekday = text.split()
    sunday_first = wall.isoweekday() % 7
    by_day = field_names(day, wall.day, 1, 31)
    by_week = any(field_names(weekday, d, 0, 7) for d in {sunday_first, sunday_first or 7})
    starred = day.startswith("*") or weekday.startswith("*")
    return (
        field_names(minute, wall.minute, 0, 59)
        and field_names(hour, wall.hour, 0, 23)
        and field_names(month, wall.month, 1, 12)
        and (by_day and by_week if starred else by_day or by_week)
    )


def minutes(start: datetime, end: datetime) -> Iterator[datetime]:
    return (start + MINUTE * k for k in range(1, (end - start) // MINUTE + 1))


CRONTABS = [
    "* * * * *", "*/30 * * * *", "*/7 * * * *", "5 * * * *", "10-20/3 */5 * * *",
    "0 0 * * *", "30 2 * * *", "15,45 9-17 * * 1-5", "0 12 * * 0", "0 12 * * 7",
    "0 12 * * sun", "0 6 * * mon-fri", "0 6 * * 5-7", "0 6 * * Fri-Sun", "0 6 * * */2",
    "0 6 * * mon-fri/2", "0 0 13 * 5", "0 0 1,15 * mon", "0 0 */10 * 1", "0 0 1 jan-mar/2 *",
    "0 0 31 * *", "0 0 29 2 *", "59 23 28-31 */3 *", "0-59/60 4 * * *", "*/60 * * * *",
    "20/20 1 * * 0-7", "0 0 * * 1,wed,6",
]  # fmt: skip


@pytest.mark.parametrize("text", CRONTABS)
def test_a_crontab_is_due_in_the_minutes_that_it_names(text: str) -> None:
    start, end = at("2028-01-31T11:59"), at("2028-04-02T12:00")
    expected = [minute for minute in minutes(start, end) if is_due(text, minute)]
    assert list(moments(Schedule.cron(text), start, end)) == expected


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    step = st.integers(1, high + 2)
    part = st.one_of(
        st.just("*"),
        number.map(str),
        step.map("*/{}".format),
        st.tuples(number, number).map(lambda ends: "{}-{}".format(*sorted(ends))),
        st.tuples(number, number, step).map(
            lambda ends: "{}-{}/{}".format(*sorted(ends[:2]), ends[2])
        ),
    )
    return st.lists(part, min_size=1, max_size=3).map(",".join)


CRONTAB = st.tuples(
    fields(0, 59), fields(0, 23), fields(1, 28), fields(1, 12), fields(0, 7)
).map(" ".join)  # fmt: skip
INTERVAL = st.tuples(st.integers(1, 300), st.sampled_from(["s", "min", "h", "d"])).map(
    lambda parts: Schedule.interval("{} {}".format(*parts))
)
ZONES = ["UTC", "Europe/Berlin", "Africa/Cairo", "Australia/Lord_Howe", "America/Santiago",
         "America/St_Johns", "Asia/Kathmandu"]  # fmt: skip
SCHEDULE = st.one_of(
    st.builds(Schedule.cron, CRONTAB, st.sampled_from(ZONES)),
    INTERVAL,
)
MOMENT = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))


@settings(max_examples=60, deadline=None)
@given(CRONTAB, MOMENT)
def test_any_crontab_agrees_with_the_slow_reader(text: str, start: datetime) -> None:
    start = start.replace(second=0, microsecond=0)
    expected = (minute for minute in minutes(start, start + 2 * DAY) if is_due(text, minute))
    assert list(moments(Schedule.cron(text), start, start + 2 * DAY)) == list(expected)


@settings(max_examples=100, deadline=None)
@given(SCHEDULE, MOMENT)
def test_the_next_time_is_later_and_no_due_time_lies_between(
    schedule: Schedule, moment: datetime
) -> None:
    following = schedule.after(moment)
    assert following > moment and following.tzinfo is UTC
    between = moment + (following - moment) / 2
    assert schedule.after(between) == following
    assert schedule.after(following) > following
    assert schedule.after(following - timedelta(microseconds=1)) == following


@settings(max_examples=100, deadline=None)
@given(SCHEDULE, MOMENT, st.timedeltas(timedelta(0), 3 * DAY))
def test_all_rounds_since_the_last_one_are_one_due_round(
    schedule: Schedule, last: datetime, passed: timedelta
) -> None:
    now = last + passed
    since = list(islice(moments(schedule, last, now), MAX_COUNTED + 1))
    assert schedule.due(last, now) == (Due(since[-1], len(since) - 1) if since else None)
    due = schedule.due(last, now)
    assert due is None or (last < due.at <= now and schedule.due(due.at, due.at) is None)


# Common crontab lines.


@pytest.mark.parametrize("weekday", ["0", "7", "sun", "SUN", "0,7", "7-7"])
def test_sunday_is_zero_and_seven(weekday: str) -> None:
    schedule = Schedule.cron(f"0 12 * * {weekday}")
    assert schedule.after(at("2026-11-25T00:00")) == at("2026-11-29T12:00")  # a Sunday
    assert schedule.after(at("2026-11-29T12:00")) == at("2026-12-06T12:00")


def test_monday_to_friday_are_one_to_five() -> None:
    for weekdays in ("1-5", "mon-fri", "1,2,3,4,5"):
        due = moments(Schedule.cron(f"0 6 * * {weekdays}"), at("2026-11-21"), at("2026-12-01"))
        assert [f"{m:%d}" for m in due] == ["23", "24", "25", "26", "27", "30"]


def test_either_day_suffices_if_both_are_restricted() -> None:
    due = moments(Schedule.cron("0 0 13 * fri"), at("2026-11-01"), at("2026-12-01"))
    assert [f"{m:%d}" for m in due] == ["06", "13", "20", "27"]
    due = moments(Schedule.cron("0 0 15 * fri"), at("2026-11-01"), at("2026-12-01"))
    assert [f"{m:%d}" for m in due] == ["06", "13", "15", "20", "27"]


def test_an_interval_does_not_drift() -> None:
    schedule = Schedule.interval("45 min")
    start = at("2026-11-25T10:07:31.5")
    due = list(moments(schedule, start, start + DAY))
    assert {later - earlier for earlier, later in pairwise(due)} == {45 * MINUTE}
    late = [schedule.after(moment + timedelta(seconds=17.3)) for moment in due[:-1]]
    assert late == due[1:]
    assert Schedule.interval("1 d").after(start) == at("2026-11-26")
    assert Schedule.interval("90s").after(at("2026-11-25")) == at("2026-11-25T00:01:30")
    assert Schedule.interval(" 2 h ").after(at("2026-11-25")) == at("2026-11-25T02:00")


# Due rounds.


@pytest.mark.parametrize("schedule", [Schedule.cron("0 0 1 1 *"), Schedule.interval("7 d")])
def test_the_first_round_is_due_immediately(schedule: Schedule) -> None:
    now = at("2026-11-25T10:07:31.5")
    assert schedule.due(None, now) == Due(now, 0)


@pytest.mark.parametrize(
    "last, now, expected",
    [
        ("2026-11-25T10:00:03", "2026-11-25T10:29:59", None),
        ("2026-11-25T10:00:03", "2026-11-25T10:30:00", ("2026-11-25T10:30:00", 0)),
        ("2026-11-25T10:00:00", "2026-11-25T10:30:00", ("2026-11-25T10:30:00", 0)),
        # a round that took longer than the period
        ("2026-11-25T10:00:03", "2026-11-25T11:10:00", ("2026-11-25T11:00:00", 1)),
        # the machine was off for a weekend
        ("2026-11-20T18:00:01", "2026-11-23T06:15:00", ("2026-11-23T06:00:00", 119)),
        # began late: what was missed before is not missed again
        ("2026-11-25T11:25:00", "2026-11-25T11:30:00", ("2026-11-25T11:30:00", 0)),
        # the clock was set back by less than a second
        ("2026-11-25T10:30:00.4", "2026-11-25T10:29:59.9", None),
        ("2026-11-25T10:30:00.4", "2026-11-25T10:30:00.1", None),
    ],
)
@pytest.mark.parametrize("schedule", [Schedule.cron("*/30 * * * *"), Schedule.interval("30 min")])
def test_missed_rounds_are_one_round(
    schedule: Schedule, last: str, now: str, expected: tuple[str, int] | None
) -> None:
    due = schedule.due(at(last), at(now))
    assert due == (None if expected is None else Due(at(expected[0]), expected[1]))


def test_a_round_under_a_wrong_clock_does_not_block_later_rounds() -> None:
    schedule, now = Schedule.interval("30 min"), at("2026-11-25T10:07")
    assert schedule.due(now + 10 * 365 * DAY, now) == Due(now, 0)
    assert schedule.due(now + MAX_CLOCK_CHANGE, now) is None


def test_counting_missed_rounds_stops_at_a_limit() -> None:
    began = time.monotonic()
    due = Schedule.interval("1 s").due(at("2020-01-01"), at("2026-01-01"))
    assert due is not None and due.missed == MAX_COUNTED
    assert time.monotonic() - began < 5


# Clock changes.

CHANGES = [
    ("Europe/Berlin", "2026-03-28", "2026-03-31"),
    ("Europe/Berlin", "2026-10-24", "2026-10-27"),
    ("Africa/Cairo", "2026-04-22", "2026-04-26"),  # midnight is skipped
    ("Africa/Cairo", "2026-10-28", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-10-02", "2026-10-05"),  # half an hour
    ("Australia/Lord_Howe", "2026-04-03", "2026-04-06"),
    ("America/Santiago", "2026-09-04", "2026-09-08"),
    ("America/Santiago", "2026-04-03", "2026-04-07"),
    ("America/St_Johns", "2011-03-12", "2011-03-15"),  # a minute after midnight
    ("Pacific/Apia", "2011-12-28", "2012-01-02"),  # a whole day is skipped
    ("Europe/Berlin", "2026-03-27", "2026-04-02"),  # and then a month ends
    ("Europe/Berlin", "2026-10-23", "2026-11-02"),
]
HOURS_NAMED = [
    "30 2 * * *",
    "0 0 * * *",
    "15 2,3 * * *",
    "*/20 0-4 * * *",
    "59 23 * * *",
    "0 0 1 * *",
]
HOURS_STARRED = [
    "*/30 * * * *",
    "17 * * * *",
    "0 */2 * * *",
    "*/45 */3 * * *",
    "* * * * *",
    "0 * 1 * *",
]


@pytest.mark.parametrize("zone, start, end", CHANGES)
@pytest.mark.parametrize("text", HOURS_STARRED)
def test_a_starred_hour_continues_in_real_time(text: str, zone: str, start: str, end: str) -> None:
    expected = [
        minute
        for minute in minutes(at(start), at(end))
        if is_due(text, minute.astimezone(ZoneInfo(zone)))
    ]
    assert list(moments(Schedule.cron(text, zone), at(start), at(end))) == expected


@pytest.mark.parametrize("zone, start, end", CHANGES)
@pytest.mark.parametrize("text", HOURS_NAMED)
def test_a_named_hour_is_due_once_through_any_clock_change(
    text: str, zone: str, start: str, end: str
) -> None:
    """A local time passes once: when the clocks first show it or a later time."""
    expected, latest = [], at(start).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    for minute in minutes(at(start), at(end)):
        local_time = minute.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        over = list(minutes(latest, local_time))
        expected += [minute] if any(is_due(text, wall) for wall in over) else []
        latest = max(latest, local_time)
    assert list(moments(Schedule.cron(text, zone), at(start), at(end))) == expected


def test_half_past_two_on_nights_of_clock_changes() -> None:
    schedule, berlin = Schedule.cron("30 2 * * *", "Europe/Berlin"), ZoneInfo("Europe/Berlin")

    def night(start: str, end: str) -> list[str]:
        due = moments(schedule, at(start), at(end))
        return [m.astimezone(berlin).isoformat() for m in due]

    assert night("2026-03-28T12:00", "2026-03-29T12:00") == ["2026-03-29T03:00:00+02:00"]
    assert night("2026-10-24T12:00", "2026-10-25T12:00") == ["2026-10-25T02:30:00+02:00"]


# Bad schedules.


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has 0 fields"),
        ("hourly", "has 1 fields"),
        ("@daily", "has 1 fields"),
        ("* * * * * *", "has 6 fields"),
        ("60 * * * *", "'60' is no minute"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 0 0 * *", "'0' is no day of the month"),
        ("0 0 * 13 *", "'13' is no month"),
        ("0 0 * * 8", "'8' is no day of the week"),
        ("0 0 * * someday", "'someday' is no day of the week"),
        ("0 0 * * sat-mon", "'sat-mon' is no day of the week"),
        ("0 22-4 * * *", "'22-4' is no hour"),
        ("*/0 * * * *", r"'\*/0' is no minute"),
        ("*-5 * * * *", r"'\*-5' is no minute"),
        ("1, * * * *", "'' is no minute"),
        ("1- * * * *", "'1-' is no minute"),
        ("-1 * * * *", "'-1' is no minute"),
        ("\u0661 * * * *", "is no minute"),  # a digit, but none of cron's
        ("0 0 last * *", "'last' is no day of the month"),
        ("0 0 30 2 *", "never occurs"),
        ("0 0 31 4,6,9,11 *", "never occurs"),
    ],
)
def test_a_bad_crontab_line_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Schedule.cron(text)
    error = str(caught.value)
    assert repr(text) in error and "\n" not in error and len(error) < 250


@pytest.mark.parametrize("zone", ["", "Nowhere/None", "Europe", "../UTC", "/etc/localtime", "\0"])
def test_an_unknown_time_zone_is_refused_in_one_sentence(zone: str) -> None:
    with pytest.raises(ValueError, match="is unknown") as caught:
        Schedule.cron("0 0 * * *", zone)
    assert repr(zone) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "30", "min", "0 min", "-5 min", "1.5 h", "30 minutes", "2 h 30 min", "9999 d",
             "999999999999 s", "\u0663 h"],
)  # fmt: skip
def test_a_bad_interval_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="give a whole number above 0 and its unit") as caught:
        Schedule.interval(text)
    assert repr(text) in str(caught.value)


# Waiting.


LONG = 1800.0
"""Seconds after which a wait counts as hung, even on a busy machine."""


def seconds_of(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def test_the_clock_waits_for_a_future_time_and_not_for_a_past_one() -> None:
    clock = SystemClock()
    moment = clock.now() + timedelta(seconds=0.3)
    assert 0.2 < seconds_of(lambda: clock.wait_until(moment)) < LONG
    assert clock.now() >= moment and clock.now().tzinfo is UTC
    assert seconds_of(lambda: clock.wait_until(clock.now() - DAY)) < LONG


def test_a_change_of_the_clock_ends_the_wait() -> None:
    class Suspended(SystemClock):
        """A clock that jumps forward by an hour after its first reading."""

        ahead = timedelta(0)

        def now(self) -> datetime:
            time = super().now() + self.ahead
            self.ahead = HOUR
            return time

    clock = Suspended()
    assert seconds_of(lambda: clock.wait_until(datetime.now(UTC) + HOUR)) < LONG


def test_a_signal_ends_the_wait_immediately() -> None:
    program = (
        "import signal, sys\n"
        "from datetime import timedelta\n"
        "from search.utils.schedule import SystemClock\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        "clock = SystemClock()\n"
        "print('waiting', flush=True)\n"
        "clock.wait_until(clock.now() + timedelta(days=1))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 9
