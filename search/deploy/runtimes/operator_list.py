"""The operators that a vendor's documentation lists, and what it says against their settings."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, cast, get_args

NodePart = Literal["attribute", "input", "axes", "rank", "batch", "channel"]
"""What a restriction is about: an attribute; the numbers of a constant input; the axes that a node
works along, counted from 0; the number of dimensions of its first input; the first of these; the
number of dimensions of a constant with one number for each channel of a map."""
Allowed = str | int | float


@dataclass(frozen=True)
class Restriction:
    """A limit on one part of a node: it is constant, and in a range, or one of some values."""

    operators: frozenset[str]
    part: NodePart
    which: str | int = ""
    """Name of the attribute, or number of the input."""
    values: tuple[Allowed, ...] = ()
    """The values that are allowed; all are if it is empty."""
    limits: tuple[float, float] | None = None
    """Least and greatest number that is allowed."""

    def __post_init__(self) -> None:
        if self.part not in get_args(NodePart):
            raise ValueError(f"a restriction is about no {self.part!r}")
        if self.values and self.limits:
            raise ValueError(f"a restriction of {self.part} has both values and limits")

    def allows(self, value: Allowed) -> bool:
        """Return whether a node may have the value."""
        if self.limits is not None:
            return not isinstance(value, str) and self.limits[0] <= value <= self.limits[1]
        return not self.values or value in self.values

    def describe_allowed(self) -> str:
        """Return the values that are allowed, as they are called in a sentence."""
        if self.limits is not None:
            return f"{self.limits[0]:g} to {self.limits[1]:g}"
        return " or ".join(map(str, self.values)) or "a constant"


@dataclass(frozen=True)
class OperatorList:
    """The operators that a runtime takes, by their ONNX names, with their restrictions."""

    version: str
    """The compiler or converter that the list describes, with its version."""
    source: str
    """The documents that the list was taken from."""
    operators: frozenset[str]
    restrictions: tuple[Restriction, ...]

    def __post_init__(self) -> None:
        unlisted = {o for r in self.restrictions for o in r.operators} - self.operators
        if unlisted:
            raise ValueError(f"{self.version}: restricted, but not listed: {sorted(unlisted)}")


def load_operator_list(name: str) -> OperatorList:
    """Return the list in `lists/NAME.toml`."""
    path = files("search.deploy.runtimes").joinpath("lists", f"{name}.toml")
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return OperatorList(
        version=content["version"],
        source=content["source"],
        operators=frozenset(content["operators"].split()),
        restrictions=tuple(map(_restriction, content.get("restrictions", []))),
    )


def _restriction(entry: dict[str, Any]) -> Restriction:
    """Return the restriction of a table with `of` and one key that names the part."""
    limits, values = entry.get("limits"), entry.get("values", [])
    (part,) = entry.keys() - {"of", "limits", "values"}
    which = entry[part]
    return Restriction(
        operators=frozenset(entry["of"].split()),
        part=cast(NodePart, part),
        which="" if which is True else which,
        values=tuple(values),
        limits=(limits[0], limits[1]) if limits else None,
    )
