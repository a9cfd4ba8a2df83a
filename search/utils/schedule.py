"""When rounds are due: the only door to APScheduler, of which only the triggers are used.

Its job stores keep pickles and its schedulers are threads; a round here is a process of its own.
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

from search.utils.cron import expanded_fields, lines

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
LONGEST = timedelta(days=366)
MOST_COUNTED = 10_000
"""Missed rounds that are counted: a week of minutes, in two seconds."""
AHEAD = timedelta(hours=1)
"""How far clocks are put back in practice; a round later than that began under a wrong clock."""
STEP = 1.0
"""Seconds after which a waiting clock is looked at again."""


@dataclass(frozen=True)
class Due:
    """A round that is due now."""

    at: datetime
    """The last moment at which one was due, in UTC."""
    missed: int
    """How many were due before that and never began."""


class _Times(Protocol):
    """Moments without an end."""

    def after(self, moment: datetime) -> datetime | None:
        """The first one later than this, in UTC; None if there never is one."""


@dataclass(frozen=True)
class Schedule:
    """The moments at which rounds are due."""

    text: str
    """As it was given."""
    times: tuple[_Times, ...]
    """One is due when any of them says so."""

    @classmethod
    def cron(cls, text: str, timezone: str = "UTC") -> Schedule:
        """The moments of the five fields of a crontab line, on the clocks of a time zone.

        As cron does it: Sunday is 0 and 7, and where both the day of the month and that of the
        week are restricted, one of them suffices. When clocks change, a line that names its hours
        is due once: at the change if the hour is skipped, the first time if it comes twice. A
        line whose hours begin with `*` goes on in real time.

        Raises:
            ValueError: the text is no such line or never comes, or the zone is not known; in one
                sentence.
        """
        given, fields, zone = text.split(), expanded_fields(text), _zone(timezone)
        kind = _RealTime if given[1].startswith("*") else _WallClock
        found = cls(text, tuple(kind(line, zone) for line in lines(given, fields)))
        if all(times.after(EPOCH) is None for times in found.times):
            raise ValueError(f"schedule {text!r} never comes: no month that it names has that day")
        return found

    @classmethod
    def interval(cls, text: str) -> Schedule:
        """Every so often, such as `30 min`; units are s, min, h and d.

        Counted from 1970 in UTC, so that no restart moves it: `1 d` is at midnight.

        Raises:
            ValueError: the text is not of that form, or nothing, or more than a year; in one
                sentence.
        """
        found = re.fullmatch(r"\s*(\d{1,9})\s*(s|min|h|d)\s*", text, re.ASCII)
        period = int(found[1]) * UNITS[found[2]] if found else 0
        if not 0 < period <= LONGEST.total_seconds():
            raise ValueError(
                f"interval {text!r}: give a whole number above 0 and its unit (s, min, h or d), "
                "a year at most, such as '30 min'"
            )
        return cls(text, (_Every(period),))

    def after(self, moment: datetime) -> datetime:
        """The first moment strictly later than this one, in UTC."""
        return min(found for times in self.times if (found := times.after(moment)) is not None)

    def due(self, last: datetime | None, now: datetime) -> Due | None:
        """The round that is due now, if any; `last` is when the last one was due, or began.

        The first round ever is due at once. All that have become due since the last one are one
        round now. One is due at once, too, if the last lies more than an hour ahead: the clock
        was wrong then, and to wait until it is that time again might take years.
        """
        if last is None or last - now > AHEAD:
            return Due(now, 0)
        since: list[datetime] = []
        for moment in self._from(last):
            if moment > now or len(since) > MOST_COUNTED:
                break
            since.append(moment)
        return Due(since[-1], len(since) - 1) if since else None

    def _from(self, moment: datetime) -> Iterator[datetime]:
        while True:
            moment = self.after(moment)
            yield moment


class _Every:
    """A moment every `period` seconds."""

    def __init__(self, period: int) -> None:
        self._trigger = IntervalTrigger(seconds=period, start_date=EPOCH, timezone=UTC)

    def after(self, moment: datetime) -> datetime | None:
        return _next(self._trigger, moment)


class _Crontab:
    """The times of a crontab line on the clocks of a zone.

    APScheduler is asked as if in UTC. With a zone it runs a named hour twice that comes twice,
    leaves out a midnight that is skipped, and in spring the midnight after the month's end.
    """

    def __init__(self, line: str, zone: tzinfo) -> None:
        self._trigger = CronTrigger.from_crontab(line, timezone=UTC)
        self._zone = zone

    def _shown(self, moment: datetime) -> datetime:
        """What clocks show then, as if it were UTC."""
        return moment.astimezone(self._zone).replace(tzinfo=UTC, fold=0)

    def _offset(self, moment: datetime) -> timedelta:
        return self._shown(moment) - moment

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The first second between the two at which clocks run otherwise than before."""
        offset = self._offset(before)
        while after - before > SECOND:
            middle = before + (after - before) // SECOND // 2 * SECOND
            before, after = (middle, after) if self._offset(middle) == offset else (before, middle)
        return after


class _RealTime(_Crontab):
    """Due whenever clocks show one of the times."""

    def after(self, moment: datetime) -> datetime | None:
        moment = moment.astimezone(UTC).replace(microsecond=0)
        shown, offset = self._shown(moment), self._offset(moment)
        while (wall := _next(self._trigger, shown)) is not None:
            found = wall - offset
            if self._offset(found) == offset:
                return found
            # On the way there clocks are changed: from then on they show other times.
            moment = self._change(moment, found)
            shown, offset = self._shown(moment) - SECOND, self._offset(moment)
        return None


class _WallClock(_Crontab):
    """Due once for each of the times, whether clocks show it twice or not at all."""

    def after(self, moment: datetime) -> datetime | None:
        wall = self._shown(moment)
        while (following := _next(self._trigger, wall)) is not None:
            wall, found = following, self._first(following)
            if found > moment:  # else clocks show it again
                return found
        return None

    def _first(self, wall: datetime) -> datetime:
        """When clocks first show this; if they skip it, when they do so."""
        late, early = (
            wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1)
        )
        return late if self._shown(late) == wall else self._change(early, late)


def _zone(name: str) -> tzinfo:
    if name == "UTC":  # is there where no time zones are installed
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError) as error:  # a folder; no name; not found
        raise ValueError(
            f"time zone {name!r} is not known here: give an IANA name such as Europe/Berlin, or "
            "UTC; small systems know no other before the package tzdata is installed"
        ) from error


def _next(trigger: CronTrigger | IntervalTrigger, moment: datetime) -> datetime | None:
    """Asked from the next whole second on: sums are exact then, and it is later for sure."""
    start = moment.astimezone(UTC).replace(microsecond=0) + SECOND
    found: datetime | None = trigger.get_next_fire_time(None, start)
    return found


class Clock(Protocol):
    """Tells the time, and waits."""

    def now(self) -> datetime:
        """In UTC."""

    def wait_until(self, moment: datetime) -> None:
        """Return when it is that time, or later."""


class SystemClock:
    """The clock of this machine.

    It waits in short steps: a machine that was suspended, or whose clock was set, is late by a
    step at most. What a signal's handler raises ends the waiting at once.
    """

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wait_until(self, moment: datetime) -> None:
        while (left := (moment - self.now()).total_seconds()) > 0:
            time.sleep(min(left, STEP))
