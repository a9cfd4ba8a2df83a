"""What all sections of a config have in common."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from spaces.errors import MergeSearchError

Positive = Annotated[int, Field(ge=1)]
Share01 = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A mapping of a config: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def exactly_one(section: BaseModel, keys: tuple[str, ...]) -> None:
    """Raise ValueError unless the section gives one of the keys and no other."""
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(keys)} (given: {given or 'none'})")


class BadConfig(MergeSearchError):
    """A config that cannot be run; the text names the key, the value and what is accepted."""


def parse_budget(text: str | int, unmerged: int) -> int:
    """A budget in bytes: a number of bytes, `24 MB` (10^6), `23 MiB` (2^20), `65%` of unmerged."""
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
