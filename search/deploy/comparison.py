"""A challenger and the champion it is to replace, and what was measured of both at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search.evaluation.bundles import Lead, Measure
from search.results.registered_plan import Standing


@dataclass(frozen=True)
class Contest:
    """What the rule is to judge by."""

    challenger: Standing
    champion: Standing | None
    leads: Mapping[Measure, Lead | None] = field(default_factory=dict)
    """The challenger's over the champion, where both were measured frame by frame."""
    measured_on: Mapping[Measure, str] = field(default_factory=dict)
    """In words."""
