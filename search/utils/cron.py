"""The five fields of a crontab line, read as cron reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """One of the five of a crontab line."""

    title: str
    low: int
    high: int
    names: Mapping[str, int]

    def expanded(self, text: str) -> str:
        """All its values in a list, or `*`."""
        values = sorted({value for part in text.split(",") for value in self._part(part)})
        if len(values) > self.high - self.low:
            return "*"
        return ",".join(str(value) for value in values)

    def _part(self, part: str) -> range:
        found = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d{1,3}))?", part, re.ASCII)
        first, last, step = found.groups() if found else ("", None, None)
        if first == "*" and last is None:
            low, high = self.low, self.high
        else:
            low = self._number(first)
            high = self._last(last) if last else (self.high if step else low)
        if not self.low <= low <= high <= self.high or (step and int(step) == 0):
            raise ValueError(
                f"{part!r} is no {self.title}: give {self.low}-{self.high}"
                + (f", {', '.join(self.names)}" if self.names else "")
                + ", *, a range as in 2-4, a step as in */2, or a list of these"
            )
        return range(low, high + 1, int(step or 1))

    def _last(self, text: str) -> int:
        """The end of a range: fri-sun ends with the Sunday that is 7."""
        number = self._number(text)
        return self.high if not text.isdecimal() and number == 0 else number

    def _number(self, text: str) -> int:
        """-1 if it is none."""
        known = self.names.get(text.lower(), -1)
        return int(text) if text.isdecimal() and len(text) < 4 else known


def _named(names: str, first: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split(), first)}


FIELDS = (
    Field("minute", 0, 59, {}),
    Field("hour", 0, 23, {}),
    Field("day of the month", 1, 31, {}),
    Field("month", 1, 12, _named("jan feb mar apr may jun jul aug sep oct nov dec", 1)),
    Field("day of the week", 0, 7, _named("sun mon tue wed thu fri sat", 0)),
)
WEEKDAYS = (*FIELDS[-1].names, "sun")


def expanded_fields(text: str) -> list[str]:
    """The fields as lists of values: APScheduler numbers weekdays from Monday, and drops what it
    cannot read behind a name, as in mon-fri/2."""
    given = text.split()
    if len(given) != len(FIELDS):
        raise ValueError(
            f"schedule {text!r} has {len(given)} fields: give the five of a crontab line (minute, "
            "hour, day of the month, month, day of the week), such as '*/30 * * * *'"
        )
    try:
        *found, days = (field.expanded(part) for field, part in zip(FIELDS, given, strict=True))
    except ValueError as error:
        raise ValueError(f"schedule {text!r}: {error}") from error
    return [*found, re.sub(r"\d", lambda day: WEEKDAYS[int(day[0])], days)]


def lines(given: list[str], fields: list[str]) -> list[str]:
    """The lines for APScheduler, which wants both days to match; cron wants that only where one
    of them begins with `*`."""
    minute, hour, day, month, weekday = fields
    if given[2].startswith("*") or given[4].startswith("*"):
        return [f"{minute} {hour} {day} {month} {weekday}"]
    return [f"{minute} {hour} {day} {month} *", f"{minute} {hour} * {month} {weekday}"]
