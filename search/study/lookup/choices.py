"""A finite space of named choices, and what is looked up for a combination of them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

Combination = Mapping[str, str]
"""A value for each parameter, by its name."""


@dataclass(frozen=True)
class Choices:
    """Named parameters, each with its values."""

    values: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.values or not all(self.values.values()):
            raise ValueError("every parameter needs a value to choose")

    @property
    def size(self) -> int:
        """Number of combinations."""
        return prod(len(values) for values in self.values.values())

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits, equal for equal parameters and values."""
        text = repr([(name, *values) for name, values in self.values.items()])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def key(self, combination: Combination) -> str:
        """Return the text that identifies a combination in this space."""
        return "|".join(combination[name] for name in self.values)

    def all(self) -> Iterator[dict[str, str]]:
        """Yield every combination."""
        for values in itertools.product(*self.values.values()):
            yield dict(zip(self.values, values, strict=True))


@dataclass(frozen=True)
class Outcome:
    """What a combination is worth."""

    values: tuple[float, ...]
    """The objectives, all to be minimised."""
    violations: Mapping[str, float] = field(default_factory=dict)
    """By limit, how far it is exceeded relative to it; at most 0 within it."""

    @property
    def worst(self) -> float:
        """The largest violation; -1 without limits."""
        return max(self.violations.values(), default=-1.0)

    @property
    def feasible(self) -> bool:
        return self.worst <= 0


@dataclass(frozen=True)
class LookedUp:
    """A combination and what it is worth."""

    combination: Combination
    outcome: Outcome


Lookup = Callable[[Combination], Outcome]
"""Returns what a combination is worth, without running anything."""
