"""The size of the search space, and the fewest bytes that it reaches, before any similarity."""

from __future__ import annotations

from dataclasses import dataclass

from search.config.base import BadConfig
from search.config.run import RunConfig
from search.study.objectives import PlanEvaluator
from search.study.precision.profiles import precision_profiles
from search.study.problem import Problem
from search.study.smallest_plan import smallest_plan
from search.utils.format import megabytes, percent
from spaces.cost import CostModel
from spaces.deployment import Deployment


@dataclass(frozen=True)
class SpaceFacts:
    """The size and the bytes of a search space, before any similarity is measured."""

    shares: int
    """Legal shares, with every adapter that fits them."""
    size: int
    """Combinations of shares."""
    unmerged_bytes: int
    smallest_bytes: int
    """Bytes of the smallest plan, if every share were good enough."""

    def describe(self) -> str:
        """Return the facts in words."""
        return (
            f"{self.shares} shares, {self.size:,} combinations; {megabytes(self.unmerged_bytes)} "
            f"unmerged, at least {megabytes(self.smallest_bytes)} "
            f"({percent(self.smallest_bytes / self.unmerged_bytes)}) merged"
        )

    def check_budget(self, config: RunConfig) -> str:
        """Return the budget in words.

        Raises:
            BadConfig: no plan meets the budget.
        """
        if config.budget is None:
            return f"quality_floor {percent(config.quality_floor)}: the search minimises bytes"
        budget = config.limits(self.unmerged_bytes).bytes
        if budget < self.smallest_bytes:
            raise BadConfig(
                f"budget: {config.budget} is {megabytes(budget)}, and no plan is smaller than "
                f"{megabytes(self.smallest_bytes)} "
                f"({percent(self.smallest_bytes / self.unmerged_bytes)})"
            )
        return f"{config.budget} is {megabytes(budget)}"


def measure_space(config: RunConfig, deployment: Deployment) -> SpaceFacts:
    """Count the combinations, and find the smallest plan if every share were perfect.

    If no rounding loses anything either, all weights are stored in the precision of fewest bytes.
    """
    facts = deployment.facts
    shares = deployment.shares(config.search.adapter_specs)
    profiles = precision_profiles(facts, {}, config.search.precision)
    problem = Problem(facts, dict.fromkeys(shares, 1.0), profiles=profiles)
    smallest = smallest_plan(problem, PlanEvaluator(problem))
    return SpaceFacts(
        len(shares), problem.space.size, CostModel(facts).unmerged_bytes, smallest.bytes
    )
