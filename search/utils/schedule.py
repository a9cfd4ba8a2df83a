"""When rounds are due. This module alone uses APScheduler, and only its triggers.

APScheduler's job stores hold pickles and its schedulers are threads; a round is a process.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from search.utils.cron import expand_fields, scheduler_lines
from search.utils.timing import EPOCH

SECOND = timedelta(seconds=1)
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
LONGEST = timedelta(days=366)
MAX_COUNTED = 10_000
"""Maximum number of missed rounds that are counted: a week of minutes, in two seconds."""
MAX_CLOCK_CHANGE = timedelta(hours=1)
"""How far clocks are set back in practice; a last round further ahead had a wrong clock."""
CLOCK_STEP = 1.0
"""Seconds between two readings of the clock while waiting."""


@dataclass(frozen=True)
class Due:
    """A round that is due now."""

    at: datetime
    """The last time at which a round was due, in UTC."""
    missed: int
    """Number of rounds that were due before and never began."""


class _Times(Protocol):
    """An endless series of times."""

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time after `moment`, in UTC; None if there is none."""


@dataclass(frozen=True)
class Schedule:
    """The times at which rounds are due."""

    text: str
    """The schedule as written."""
    times: tuple[_Times, ...]
    """A round is due at every time of each of these series."""

    @classmethod
    def cron(cls, text: str, timezone: str = "UTC") -> Schedule:
        """Return the schedule of a crontab line, read on the clocks of a time zone.

        Follows cron: Sunday is 0 and 7, and if both the day of the month and the day of the week
        are restricted, one match suffices. When the clocks change, a line that names its hours is
        due once: at the change if the hour is skipped, the first time if the hour occurs twice. A
        line whose hours begin with `*` continues in real time.

        Raises:
            ValueError: the text is not a crontab line, the schedule never occurs, or the time
                zone is unknown; the message is one sentence.
        """
        texts, fields, zone = text.split(), expand_fields(text), _zone(timezone)
        kind = _RealTime if texts[1].startswith("*") else _WallClock
        schedule = cls(text, tuple(kind(line, zone) for line in scheduler_lines(texts, fields)))
        if all(times.after(EPOCH) is None for times in schedule.times):
            raise ValueError(f"schedule {text!r} never occurs: none of its months has such a day")
        return schedule

    @classmethod
    def interval(cls, text: str) -> Schedule:
        """Return the schedule of an interval such as `30 min`; units are s, min, h and d.

        Intervals count from 1970 in UTC, so that no restart moves them: `1 d` means midnight.

        Raises:
            ValueError: the text has another form, or the interval is 0 or more than a year; the
                message is one sentence.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*(s|min|h|d)\s*", text, re.ASCII)
        period = int(match[1]) * UNITS[match[2]] if match else 0
        if not 0 < period <= LONGEST.total_seconds():
            raise ValueError(
                f"interval {text!r}: give a whole number above 0 and its unit (s, min, h or d), "
                "at most a year, such as '30 min'"
            )
        return cls(text, (_Every(period),))

    def after(self, moment: datetime) -> datetime:
        """Return the first time after `moment`, in UTC."""
        following = (times.after(moment) for times in self.times)
        return min(time for time in following if time is not None)

    def due(self, last: datetime | None, now: datetime) -> Due | None:
        """Return the round that is due now, if any; `last` is when the last round was due.

        The first round ever is due immediately. All rounds that have become due since the last
        one are a single round now. A round is also due immediately if the last one lies more than
        an hour in the future: the clock was wrong then, and waiting for that time could take
        years.
        """
        if last is None or last - now > MAX_CLOCK_CHANGE:
            return Due(now, 0)
        since: list[datetime] = []
        for moment in self._from(last):
            if moment > now or len(since) > MAX_COUNTED:
                break
            since.append(moment)
        return Due(since[-1], len(since) - 1) if since else None

    def _from(self, moment: datetime) -> Iterator[datetime]:
        while True:
            moment = self.after(moment)
            yield moment


class _Every:
    """A time every `period` seconds."""

    def __init__(self, period: int) -> None:
        self._trigger = IntervalTrigger(seconds=period, start_date=EPOCH, timezone=UTC)

    def after(self, moment: datetime) -> datetime | None:
        return _next(self._trigger, moment)


class _Crontab:
    """The times of a crontab line on the clocks of a zone.

    APScheduler computes the times as if in UTC. With a time zone, it runs twice in a named hour
    that occurs twice, and omits a midnight that is skipped as well as, in spring, the midnight
    after the end of the month.
    """

    def __init__(self, line: str, zone: tzinfo) -> None:
        self._trigger = CronTrigger.from_crontab(line, timezone=UTC)
        self._zone = zone

    def _shown(self, moment: datetime) -> datetime:
        """Return what the clocks show at a time, as if it were UTC."""
        return moment.astimezone(self._zone).replace(tzinfo=UTC, fold=0)

    def _offset(self, moment: datetime) -> timedelta:
        return self._shown(moment) - moment

    def _change(self, before: datetime, after: datetime) -> datetime:
        """Return the first second between two times at which the clocks have changed."""
        offset = self._offset(before)
        while after - before > SECOND:
            middle = before + (after - before) // SECOND // 2 * SECOND
            before, after = (middle, after) if self._offset(middle) == offset else (before, middle)
        return after


class _RealTime(_Crontab):
    """Due whenever the clocks show one of the times."""

    def after(self, moment: datetime) -> datetime | None:
        moment = moment.astimezone(UTC).replace(microsecond=0)
        shown, offset = self._shown(moment), self._offset(moment)
        while (wall := _next(self._trigger, shown)) is not None:
            candidate = wall - offset
            if self._offset(candidate) == offset:
                return candidate
            # The clocks change before that: from then on, they show other times.
            moment = self._change(moment, candidate)
            shown, offset = self._shown(moment) - SECOND, self._offset(moment)
        return None


class _WallClock(_Crontab):
    """Due once for each of the times, even if the clocks show it twice or never."""

    def after(self, moment: datetime) -> datetime | None:
        wall = self._shown(moment)
        while (following := _next(self._trigger, wall)) is not None:
            wall, first = following, self._first(following)
            if first > moment:  # else the clocks show it a second time
                return first
        return None

    def _first(self, wall: datetime) -> datetime:
        """Return when the clocks first show this time, or when they skip it."""
        late, early = (
            wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1)
        )
        return late if self._shown(late) == wall else self._change(early, late)


def _zone(name: str) -> tzinfo:
    if name == "UTC":  # works without a time zone database
        return UTC
    try:
        return ZoneInfo(name)
    # in this order: the name of a folder; a text that is no name; an unknown name
    except (OSError, ValueError, ZoneInfoNotFoundError) as error:
        raise ValueError(
            f"time zone {name!r} is unknown: give an IANA name such as Europe/Berlin, or UTC; on "
            "small systems, install the package tzdata"
        ) from error


def _next(trigger: CronTrigger | IntervalTrigger, moment: datetime) -> datetime | None:
    """Return the first time after `moment`, counted in whole seconds, so that sums are exact."""
    start = moment.astimezone(UTC).replace(microsecond=0) + SECOND
    following: datetime | None = trigger.get_next_fire_time(None, start)
    return following


class Clock(Protocol):
    """A clock that a watch reads and waits for."""

    def now(self) -> datetime:
        """Return the time in UTC."""

    def wait_until(self, moment: datetime) -> None:
        """Return at `moment` or later."""


class SystemClock:
    """The clock of this machine.

    It waits in short steps, so that it is late by at most one step after the machine was suspended
    or its clock was set. An exception from a signal handler ends the wait immediately.
    """

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wait_until(self, moment: datetime) -> None:
        while (remaining := (moment - self.now()).total_seconds()) > 0:
            time.sleep(min(remaining, CLOCK_STEP))
