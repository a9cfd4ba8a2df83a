"""What a study is asked, as data: models' facts, what each share keeps, limits and objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from search.encoding import Encoding
from spaces.facts import ModelFacts, layouts_of
from spaces.liveness import Layouts
from spaces.plan import Share

Cost = Literal["bytes", "macs", "activation", "latency"]
"""What a search can make small: bytes held, multiply-accumulates per frame, peak bytes of live
activations per frame, measured milliseconds per frame."""


@dataclass(frozen=True)
class Limits:
    """What makes a plan feasible."""

    bytes: float = math.inf
    """The merged set may hold at most so many."""
    quality: float = 0.0
    """Every model must keep at least this share of its quality."""

    def allow(self, held: int, worst: float) -> bool:
        """Whether a plan of so many bytes, whose worst model keeps so much, is feasible."""
        return held <= self.bytes and worst >= self.quality


@dataclass(frozen=True)
class Problem:
    """All that a plan's value depends on, but for what only a running network can tell."""

    facts: Mapping[str, ModelFacts]
    kept: Mapping[Share, float]
    """The shares to choose from, and the quality that each is predicted to keep, 0 to 1."""
    limits: Limits = Limits()
    costs: tuple[Cost, ...] = ("bytes",)
    """What is made small beside the quality that is made great."""

    @cached_property
    def layouts(self) -> Layouts:
        return layouts_of(self.facts)

    @cached_property
    def encoding(self) -> Encoding:
        return Encoding(self.layouts, sorted(self.kept))
