"""A challenger and the champion it is to replace, and what was measured of both at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search.evaluation.bundles import Difference, Measure
from search.results.registered_plan import RegisteredPlan


@dataclass(frozen=True)
class Comparison:
    """What the rule is to judge by."""

    challenger: RegisteredPlan
    champion: RegisteredPlan | None
    differences: Mapping[Measure, Difference | None] = field(default_factory=dict)
    """Challenger minus champion, where both were measured on the same frames."""
    measured_on: Mapping[Measure, str] = field(default_factory=dict)
    """In words."""
