"""Parse the five fields of a crontab line as cron does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """One of the five fields of a crontab line."""

    title: str
    low: int
    high: int
    names: Mapping[str, int]

    def expand(self, text: str) -> str:
        """Return all values of the field in a comma-separated list, or `*`."""
        values = sorted({value for part in text.split(",") for value in self._part(part)})
        if len(values) > self.high - self.low:
            return "*"
        return ",".join(str(value) for value in values)

    def _part(self, part: str) -> range:
        match = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d{1,3}))?", part, re.ASCII)
        first, last, step = match.groups() if match else ("", None, None)
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
        """Return the end of a range; fri-sun ends with the Sunday that is 7."""
        number = self._number(text)
        return self.high if not text.isdecimal() and number == 0 else number

    def _number(self, text: str) -> int:
        """Return the number that a text means, or -1."""
        if text.isdecimal() and len(text) < 4:
            return int(text)
        return self.names.get(text.lower(), -1)


def _numbered(names: str, first: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split(), first)}


FIELDS = (
    Field("minute", 0, 59, {}),
    Field("hour", 0, 23, {}),
    Field("day of the month", 1, 31, {}),
    Field("month", 1, 12, _numbered("jan feb mar apr may jun jul aug sep oct nov dec", 1)),
    Field("day of the week", 0, 7, _numbered("sun mon tue wed thu fri sat", 0)),
)
WEEKDAYS = (*FIELDS[-1].names, "sun")


def expand_fields(text: str) -> list[str]:
    """Return each field of a crontab line as a list of values.

    APScheduler cannot read the fields itself: it numbers weekdays from Monday, and ignores a step
    behind a name, as in mon-fri/2.

    Raises:
        ValueError: the text is not a crontab line.
    """
    texts = text.split()
    if len(texts) != len(FIELDS):
        raise ValueError(
            f"schedule {text!r} has {len(texts)} fields: give the five of a crontab line (minute, "
            "hour, day of the month, month, day of the week), such as '*/30 * * * *'"
        )
    try:
        *others, days = (field.expand(part) for field, part in zip(FIELDS, texts, strict=True))
    except ValueError as error:
        raise ValueError(f"schedule {text!r}: {error}") from error
    return [*others, re.sub(r"\d", lambda day: WEEKDAYS[int(day[0])], days)]


def scheduler_lines(texts: list[str], fields: list[str]) -> list[str]:
    """Return crontab lines that together mean the same to APScheduler as one line means to cron.

    `texts` are the fields as written, `fields` the expanded ones. APScheduler requires the day of
    the month and the day of the week to match; cron requires both only if one of them begins
    with `*`.
    """
    minute, hour, day, month, weekday = fields
    if texts[2].startswith("*") or texts[4].startswith("*"):
        return [f"{minute} {hour} {day} {month} {weekday}"]
    return [f"{minute} {hour} {day} {month} *", f"{minute} {hour} * {month} {weekday}"]
