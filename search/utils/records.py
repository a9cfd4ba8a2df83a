"""JSON records: dataclasses that are written field by field and checked when they are read.

A record is read strictly: every field has its declared type, and no key is missing or unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from search.utils.files import write_json
from search.utils.timing import epoch_milliseconds
from spaces.errors import MergeSearchError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
KEYS = {
    "in_registry": "told",
    "metric_seconds": "guide_seconds",
    "metrics": "guides",
    "previous_bundle": "before",
    "promotion": "verdict",
    "rank_agreement": "rungs",
    "registered_plan": "standing",
}
"""JSON keys of the fields that are stored under another name: the files keep their keys."""


OMITTED_IF_EMPTY = (
    "stored",
    "refinements",
    "alternatives",
    "rates",
    "macs_per_second",
    "unmerged_macs_per_second",
    "measured",
    "group",
    "group_plan",
    "moved",
    "groups",
)
"""Fields that are written only if they hold something: without them a record keeps the bytes, and
so the identity, that it had before they existed."""


def _key_of(field: str) -> str:
    return KEYS.get(field, field)


STRICT = ConfigDict(extra="forbid", strict=True, alias_generator=_key_of)


class BadRecord(MergeSearchError):
    """A record is damaged, incomplete or of another version."""


class NoRecord(BadRecord):
    """The file of a record does not exist."""


def _iso_time(text: str) -> str:
    epoch_milliseconds(text)
    return text


IsoTime = Annotated[str, AfterValidator(_iso_time)]
"""A time in ISO 8601; any other text makes the record a bad one."""


def read_record(kind: type[T], path: Path) -> T:
    """Read the record in a file.

    `kind` is a dataclass or a type of plain JSON data such as `dict[str, int]`.

    Raises:
        NoRecord: The file does not exist.
        BadRecord: The file cannot be read or does not hold such a record.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NoRecord(f"{path}: there is no such file") from error
    except OSError as error:
        raise BadRecord(f"{path}: cannot be read ({error.strerror or error})") from error
    return load_record(kind, content, str(path))


def load_record(kind: type[T], content: str | bytes, source: str) -> T:
    """Build a record from its JSON text; `source` says in errors where the text comes from.

    Raises:
        BadRecord: The text does not hold such a record.
    """
    try:
        record: T | None = _adapter(cast(Any, kind)).validate_json(content)
    except ValidationError as error:
        raise BadRecord(f"{source}: {_in_words(error)}") from error
    if record is None:
        raise BadRecord(f"{source}: null instead of a record")
    return record


def dump_record(record: DataclassInstance) -> dict[str, Any]:
    """Return the record as plain data for JSON, keys in the order of the fields."""
    return asdict(record, dict_factory=_json_object)


def _json_object(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {_key_of(name): v for name, v in fields if v or name not in OMITTED_IF_EMPTY}


def write_record(path: Path, record: DataclassInstance) -> None:
    """Replace the file at `path` with the record, completely or not at all.

    Raises:
        CannotWrite: The folder cannot be created or written to, or the disk is full.
    """
    write_json(path, dump_record(record))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # The adapter of a dataclass takes no configuration, but a dataclass without its own
    # configuration inherits that of the type around it.
    return TypeAdapter(kind | None, config=STRICT)


def _in_words(error: ValidationError) -> str:
    """Name the first key that is wrong, and count the others."""
    first, *others = error.errors(include_url=False, include_input=False)
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    message = message.replace("recursion limit exceeded", "nested too deep")
    key = _key(first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    return f"{key}: {message}{more}" if key else f"{message}{more}"


def _key(location: tuple[int | str, ...]) -> str:
    """Write the place of a value in a JSON document, as in `candidates[0].bytes`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")
