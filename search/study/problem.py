"""What a study is asked, as data: models' facts, what each share keeps, limits and objectives."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from search.study.search_space import Encoding
from spaces.liveness import Layouts
from spaces.model_facts import ModelFacts, facts_from_json, facts_to_json, layouts_by_model
from spaces.plan import AdapterSpec, Ref, Share

Cost = Literal["bytes", "macs", "activation", "latency"]
"""What a search can make small: bytes held, multiply-accumulates per frame, peak bytes of live
activations per frame, measured milliseconds per frame."""

SamplerName = Literal["local", "nsga2", "tpe", "random"]
"""How a study picks what to try next; see `search.study_samplers`."""


@dataclass(frozen=True)
class Limits:
    """What makes a plan feasible."""

    bytes: float = math.inf
    """The merged set may hold at most so many."""
    quality: float = 0.0
    """Every model must keep at least this share of its quality."""

    @property
    def want_bytes(self) -> bool:
        """Whether fewest bytes are asked for, and not the best quality."""
        return self.quality > 0

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
        return layouts_by_model(self.facts)

    @cached_property
    def encoding(self) -> Encoding:
        return Encoding(self.layouts, sorted(self.kept))

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits, the same for problems that mean the same."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: what a process on another machine needs to join in."""
        return {
            "facts": facts_to_json(self.facts),
            "kept": [
                [str(s.recipient), str(s.donor), str(s.adapter), round(kept, 9)]
                for s, kept in sorted(self.kept.items())
            ],
            "limits": {
                "bytes": None if self.limits.bytes == math.inf else self.limits.bytes,
                "quality": self.limits.quality,
            },
            "costs": list(self.costs),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Problem:
        """The problem that `to_dict` wrote."""
        limits = data["limits"]
        return cls(
            facts=facts_from_json(data["facts"]),
            kept={
                Share(Ref.parse(recipient), Ref.parse(donor), AdapterSpec.parse(adapter)): kept
                for recipient, donor, adapter, kept in data["kept"]
            },
            limits=Limits(limits["bytes"] or math.inf, limits["quality"]),
            costs=tuple(data["costs"]),
        )
