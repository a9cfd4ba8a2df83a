"""The problem that a study solves, as data: models' facts, shares, limits and objectives."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from search.study.precision.profiles import Profile, RoundingLosses
from search.study.search_space import PrecisionChoice, SearchSpace
from spaces.liveness import Layouts
from spaces.model_facts import ModelFacts, facts_from_json, facts_to_json, layouts_by_model
from spaces.plan import AdapterSpec, Ref, Share

Cost = Literal["bytes", "macs", "activation", "latency"]
"""A cost that a search can minimise: bytes held, multiply-accumulates per frame, peak bytes of
live activations per frame, measured milliseconds per frame. If the models have rates, MACs and
milliseconds are those per second of camera time."""

SamplerName = Literal["local", "nsga2", "tpe", "random"]
"""How a study picks the next plan to evaluate; see `search.study.samplers`."""


@dataclass(frozen=True)
class Limits:
    """The limits within which a plan is feasible."""

    bytes: float = math.inf
    """The most bytes that the merged set may hold."""
    quality: float = 0.0
    """The lowest share of its quality that every model must keep, 0 to 1."""

    @property
    def prefer_fewest_bytes(self) -> bool:
        """Whether the user wants the fewest bytes rather than the best quality."""
        return self.quality > 0

    def allow(self, total_bytes: int, worst: float) -> bool:
        """Return whether a plan is feasible whose lowest quality of any model is `worst`."""
        return total_bytes <= self.bytes and worst >= self.quality


@dataclass(frozen=True)
class Problem:
    """Everything that the value of a plan depends on, except for measured latencies."""

    facts: Mapping[str, ModelFacts]
    quality_by_share: Mapping[Share, float]
    """The shares to choose from, and the quality that each is predicted to keep, 0 to 1."""
    limits: Limits = Limits()
    costs: tuple[Cost, ...] = ("bytes",)
    """The costs to minimise, while predicted quality is maximised."""
    profiles: tuple[Profile, ...] = ()
    """The precision profiles to choose from; none: all weights are stored as given."""
    rounding_losses: RoundingLosses = field(default_factory=dict)
    """The loss of each stage and head at each precision, 0 to 1."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """The frames a second that each model answers for; empty: all answer for every frame."""

    @cached_property
    def layouts(self) -> Layouts:
        """The stages and taps of every model."""
        return layouts_by_model(self.facts)

    @cached_property
    def space(self) -> SearchSpace:
        """The plans to choose from, as parameters of trials."""
        return SearchSpace(
            self.layouts,
            sorted(self.quality_by_share),
            PrecisionChoice(self.facts, self.profiles),
        )

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits, equal for equal problems."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as JSON data, from which another process can join a study."""
        return {
            "facts": facts_to_json(self.facts),
            "kept": [
                [str(s.recipient), str(s.donor), str(s.adapter), round(quality, 9)]
                for s, quality in sorted(self.quality_by_share.items())
            ],
            "limits": {
                "bytes": None if self.limits.bytes == math.inf else self.limits.bytes,
                "quality": self.limits.quality,
            },
            "costs": list(self.costs),
            # Hashes of problems that give neither depend on the keys being left out.
            **self._precision_to_dict(),
            **({"rates": dict(self.rates)} if self.rates else {}),
        }

    def _precision_to_dict(self) -> dict[str, Any]:
        if not self.profiles:
            return {}
        return {
            "profiles": [
                {str(owner): precision for owner, precision in sorted(profile.items())}
                for profile in self.profiles
            ],
            "rounding_losses": [
                [str(owner), precision, round(loss, 9)]
                for (owner, precision), loss in sorted(self.rounding_losses.items())
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Problem:
        """Return the problem that `to_dict` wrote."""
        limits = data["limits"]
        return cls(
            facts=facts_from_json(data["facts"]),
            quality_by_share={
                Share(Ref.parse(recipient), Ref.parse(donor), AdapterSpec.parse(adapter)): quality
                for recipient, donor, adapter, quality in data["kept"]
            },
            limits=Limits(limits["bytes"] or math.inf, limits["quality"]),
            costs=tuple(data["costs"]),
            profiles=tuple(
                {Ref.parse(owner): precision for owner, precision in profile.items()}
                for profile in data.get("profiles", [])
            ),
            rounding_losses={
                (Ref.parse(owner), precision): loss
                for owner, precision, loss in data.get("rounding_losses", [])
            },
            rates=data.get("rates", {}),
        )
