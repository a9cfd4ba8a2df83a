"""The fields of an entry of a label file: numbers, ids, and the names of entries in messages.

`place` is what a message calls the entry, such as `annotation 17`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

MAX_LISTED = 12
"""The most names or ids that a message lists."""


def entry_place(kind: str, entry: Mapping[str, Any], number: int) -> str:
    """Return what a message calls an entry: by its id, else by its number in its list."""
    own = entry.get("id")
    return f"{kind} number {number}" if own is None else f"{kind} {short_text(own)}"


def required_field(entry: Mapping[str, Any], key: str, place: str) -> Any:
    """Return a field of an entry.

    Raises:
        ValueError: it is missing or null.
    """
    if entry.get(key) is None:
        raise ValueError(f"{place}: {key} is missing")
    return entry[key]


def id_of(entry: Mapping[str, Any], key: str, place: str) -> Hashable:
    """Return a number or text that identifies an image.

    Raises:
        ValueError: it is missing, or of another type.
    """
    value = required_field(entry, key, place)
    if not isinstance(value, (int, float, str)):
        raise ValueError(f"{place}: {key} must be a number or text, not {short_text(value)}")
    number = _as_whole(value)
    return value if number is None else number


def whole_number(entry: Mapping[str, Any], key: str, place: str) -> int:
    """Return a whole number.

    Raises:
        ValueError: it is missing, or no whole number.
    """
    value = required_field(entry, key, place)
    number = _as_whole(value)
    if number is None:
        raise ValueError(f"{place}: {key} must be a whole number, not {short_text(value)}")
    return number


def float_number(value: Any, place: str) -> float:
    """Return a number as a float; it may be NaN.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: {short_text(value)} is not a number") from None


def list_texts(values: Iterable[Any]) -> str:
    """Join the values with commas, and count the values beyond `MAX_LISTED`."""
    texts = [str(value) for value in values]
    rest = len(texts) - MAX_LISTED
    return ", ".join(texts[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def short_text(value: Any) -> str:
    """Return a value as a message shows it: at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _as_whole(value: Any) -> int | None:
    """Return a whole number that is written as one, in text too; None of anything else."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    try:
        return int(value) if isinstance(value, str) and str(int(value)) == value.strip() else None
    except ValueError:
        return None
