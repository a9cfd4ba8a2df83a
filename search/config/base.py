"""What all sections of a config have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

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
