"""The base of all sections of a config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

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


def no_boolean(value: Any) -> Any:
    """Return a number that a user gives, unless it is true or false, which Python takes for 1, 0.

    Raises:
        ValueError: it is true or false.
    """
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is no number")
    return value


def path_from(base: Path, text: str) -> Path:
    """Return the path that a config gives; a relative one starts at `base`, `~` is the home."""
    return base / os.path.expanduser(text)


def exactly_one(section: BaseModel, keys: tuple[str, ...]) -> None:
    """Raise ValueError unless the section gives exactly one of the keys."""
    given_keys = [key for key in keys if getattr(section, key) is not None]
    if len(given_keys) != 1:
        raise ValueError(f"give exactly one of {', '.join(keys)} (given: {given_keys or 'none'})")
