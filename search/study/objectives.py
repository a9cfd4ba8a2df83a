"""What a plan is worth: its costs, and the quality that the similarities predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from search.study.problem import Cost, Problem
from search.study.proxy import Proxy
from spaces.cost import CostModel
from spaces.errors import MergeSearchError
from spaces.plan import SharePlan

MEGA = 1e6
UNITS: dict[Cost, str] = {"bytes": "MB", "macs": "M", "activation": "MB", "latency": "ms"}
"""What a value of each cost is counted in (MB is 10^6 bytes)."""


class NotMeasuredHere(MergeSearchError):
    """A latency is asked for where no network runs."""


@dataclass(frozen=True)
class Predicted:
    """A plan with the bytes it holds and the quality that the proxy predicts."""

    plan: SharePlan
    bytes: int
    proxy: float
    """Mean over the models of the share of its quality that each keeps."""
    worst: float
    """The lowest of them."""


@dataclass(frozen=True)
class Valued(Predicted):
    """The same with all that the search makes small."""

    costs: tuple[float, ...]
    """What the problem names, in its order and in UNITS."""

    @property
    def objectives(self) -> tuple[float, ...]:
        """All to be made small: the costs, and the quality with its sign turned."""
        return (*self.costs, -self.proxy)


class PlanEvaluator:
    """Values plans."""

    def __init__(
        self, problem: Problem, milliseconds: Callable[[SharePlan], float] | None = None
    ) -> None:
        """`milliseconds` measures a plan's latency; needed only where the problem names it."""
        self.problem = problem
        self.costs = CostModel(problem.facts)
        self.proxy = Proxy(problem.kept, problem.layouts)
        self._predicted: dict[SharePlan, Predicted] = {}
        self._measure: dict[Cost, Callable[[SharePlan], float]] = {
            "bytes": lambda plan: self.predict(plan).bytes / MEGA,
            "macs": lambda plan: self.costs.macs(plan) / MEGA,
            "activation": lambda plan: self.costs.activation(plan) / MEGA,
            "latency": milliseconds or _not_here,
        }

    def predict(self, plan: SharePlan) -> Predicted:
        """What is known of a canonical plan without measuring anything."""
        if plan not in self._predicted:
            by_model = self.proxy.by_model(plan).values()
            proxy = sum(by_model) / len(by_model)
            self._predicted[plan] = Predicted(plan, self.costs.bytes(plan), proxy, min(by_model))
        return self._predicted[plan]

    def value(self, plan: SharePlan) -> Valued:
        """The value of a canonical plan; a latency is measured anew each time."""
        return self.valued(plan, tuple(self._measure[cost](plan) for cost in self.problem.costs))

    def valued(self, plan: SharePlan, costs: tuple[float, ...]) -> Valued:
        """The value of a canonical plan whose costs are known already."""
        known = self.predict(plan)
        return Valued(plan, known.bytes, known.proxy, known.worst, costs)

    def feasible(self, found: Predicted) -> bool:
        return self.problem.limits.allow(found.bytes, found.worst)


def _not_here(plan: SharePlan) -> float:
    raise NotMeasuredHere(
        "this search makes a measured latency small, and latencies of two machines do not "
        "compare: it cannot be joined; run it with one process"
    )
