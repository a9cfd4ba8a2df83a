"""A challenger and the champion that it may replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search.evaluation.bundles import Difference, Measure
from search.results.registered_plan import RegisteredPlan


@dataclass(frozen=True)
class Comparison:
    """The facts on which the promotion rule decides."""

    challenger: RegisteredPlan
    champion: RegisteredPlan | None
    differences: Mapping[Measure, Difference | None] = field(default_factory=dict)
    """Challenger minus champion, if both were measured frame by frame on the same frames."""
    measured_on: Mapping[Measure, str] = field(default_factory=dict)
    """The frames and their number, in words."""
