"""The base of all sections of a config."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError

Positive = Annotated[int, Field(ge=1)]
Share01 = Annotated[float, Field(ge=0, le=1)]


class BadConfig(MergeSearchError):
    """A config that cannot be run; the message names the key, the value and what is accepted."""


class Section(BaseModel):
    """A mapping in a config. Unknown keys and values of the wrong type are refused.

    The docstring below a field is its description in the JSON schema.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _paths_as_text(cls, data: Any) -> Any:
        """Accept `pathlib` paths from Python; a file has text only."""
        if not isinstance(data, Mapping):
            return data
        return {
            key: str(value) if isinstance(value, Path) and key != "base" else value
            for key, value in data.items()
        }


def exactly_one(section: BaseModel, keys: tuple[str, ...]) -> None:
    """Raise ValueError unless the section gives exactly one of the keys."""
    given_keys = [key for key in keys if getattr(section, key) is not None]
    if len(given_keys) != 1:
        raise ValueError(f"give exactly one of {', '.join(keys)} (given: {given_keys or 'none'})")


def parse_budget(text: str | int, unmerged: int) -> int:
    """Return a budget in bytes.

    `text` is a number of bytes, or text such as `24 MB` (10^6), `23 MiB` (2^20) or `65%`, which
    is a share of the `unmerged` bytes.

    Raises:
        ValueError: the text has another form, or means 0 bytes.
    """
    units = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9,
             "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}  # fmt: skip
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[kKMG]?i?B|)\s*", str(text))
    if not match or not 0 < float(match[1]) < math.inf:
        raise ValueError("write it as 65%, 24 MB, 23 MiB or a whole number of bytes above 0")
    if match[2] == "%":
        return int(unmerged * float(match[1]) / 100)
    if match[2] not in units:
        raise ValueError(f"unit {match[2]!r}: use %, kB, MB, GB, KiB, MiB or GiB")
    return int(float(match[1]) * units[match[2]])


def error_sentences(error: ValidationError) -> str:
    """Return the problems of a config on one line, each as `key: problem`."""
    return "; ".join(dict.fromkeys(_sentence(detail) for detail in error.errors()))


def _sentence(detail: Mapping[str, Any]) -> str:
    """Return one problem as `key: problem`, with the value if it is short."""
    key = ".".join(str(part) for part in detail["loc"]) or "the config"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    value = detail["input"]
    value_text = f" (given: {value!r})" if isinstance(value, (str, int, float, bool)) else ""
    return without_credentials(f"{key}: {message[0].lower()}{message[1:]}{value_text}")
