"""Errors of validation in plain words: the key, what is wrong with it, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from search.utils.redact import host_only, without_credentials
from spaces.model_spec import ARCH_FORMS, ARCH_WORDS

ARCH = f"^({'|'.join(form.prefix + form.pattern for form in ARCH_FORMS)})$"
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
CAMERA_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
SCHEDULER = r"^(tcp|tls|ws|wss)://[^/\s]+:\d+$"
PATTERN_WORDS = {
    ARCH: f"must be {ARCH_WORDS}, such as timm/resnet18",
    DEVICE: "must be auto, cpu, cuda or cuda:N, such as cuda:0",
    SCHEDULER: "must be the address of a scheduler, such as tcp://scheduler:8786",
    CAMERA_NAME: "must have at most 100 letters, digits, dashes and underscores, no sign first",
}
TYPE_WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or greater",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_type": "must be a whole number",
    "invalid_key": "a key must be text",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "model_type": "must be a mapping of keys to values",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "string_unicode": "holds a character that does not exist",
    "too_long": "must have {max_length} or fewer entries",
    "too_short": "must have {min_length} or more entries",
}
"""Words for the types of pydantic's errors that the sections of a config can raise."""
ADDRESSES = ("storage", "stream", "tracking_uri")
"""Keys of addresses, which may hold secrets."""
LONGEST_VALUE = 60
"""Characters of a refused value that are shown."""

Location = Sequence[str | int]


def error_sentences(error: ValidationError, section: type[BaseModel]) -> str:
    """Return what is wrong with a section, on one line, as `key: problem` for each problem."""
    sentences = (_sentence(detail, section) for detail in error.errors())
    return without_credentials("; ".join(dict.fromkeys(sentences)))


def _sentence(detail: Mapping[str, Any], section: type[BaseModel]) -> str:
    *parents, key = detail["loc"] or ("the config",)
    if detail["type"] == "extra_forbidden":
        return f"{_dotted([*parents, key])}: unknown key{_hint(str(key), parents, section)}"
    problem = _problem(detail)
    if key == "[key]":
        *parents, name = parents
        return f"{_dotted(parents)}: the name {name!r} {problem}"
    return f"{_dotted([*parents, key])}: {problem}{_given(detail)}"


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _problem(detail: Mapping[str, Any]) -> str:
    """Return what is wrong with a value; the messages of our own checks are in plain words."""
    context, message = detail.get("ctx", {}), str(detail["msg"])
    if detail["type"] == "value_error":
        message = str(context["error"])
        return message[:1].lower() + message[1:]
    if detail["type"] == "string_pattern_mismatch":
        return PATTERN_WORDS[context["pattern"]]
    bounds = {name: _plain(value) for name, value in context.items()}
    return TYPE_WORDS[detail["type"]].format_map(bounds) + _quoting(detail)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _quoting(detail: Mapping[str, Any]) -> str:
    """Return how to write a value that YAML has read as a value of another type."""
    value, kind = detail["input"], detail["type"]
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return ", in quotes if need be"
    if kind in ("int_type", "float_type") and isinstance(value, str) and _is_number(value):
        exponent = "an exponent such as e3" if "e" in value.lower() else "quotes"
        return f", without {exponent}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _given(detail: Mapping[str, Any]) -> str:
    """Return the refused value, if it is short."""
    value = detail["input"]
    if value is None and detail["type"] != "missing":
        return " (given: nothing)"
    if detail["type"] == "missing" or not isinstance(value, (str, int, float, bool)):
        return ""
    if isinstance(value, str) and "://" in value:
        value = host_only(value)
    elif isinstance(value, str) and detail["loc"] and detail["loc"][-1] in ADDRESSES:
        return ""  # without a scheme, nothing shows where a password ends
    shown = repr(value)
    return f" (given: {shown if len(shown) <= LONGEST_VALUE else shown[:LONGEST_VALUE] + '…'})"


def _hint(key: str, parents: Location, section: type[BaseModel]) -> str:
    """Return the key that was probably meant, else all keys of the section at that place."""
    keys = _keys(section, parents)
    similar = difflib.get_close_matches(key, keys, 1)
    return f"; is {similar[0]} meant?" if similar else f"; the keys are {', '.join(keys)}"


def _keys(annotation: Any, location: Location) -> list[str]:
    """Return the keys of the section at a location within a value of the annotated type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        if location:
            return _keys(fields[str(location[0])].annotation, location[1:])
        return [name for name, field in fields.items() if name != "base"]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (dict, list):
        return _keys(parts[-1], location[1:])
    if origin in (Union, UnionType, Annotated):
        return next((keys for part in parts if (keys := _keys(part, location))), [])
    return []
