"""The objectives of a plan: its costs, and the quality that the similarities predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search.study.problem import Cost, Problem
from search.study.proxy import Proxy
from spaces.cost import CostModel
from spaces.errors import MergeSearchError
from spaces.plan import SharePlan

MEGA = 1e6
COST_UNITS: dict[Cost, str] = {"bytes": "MB", "macs": "M", "activation": "MB", "latency": "ms"}
"""The unit of each cost; MB is 10^6 bytes."""


def cost_units(has_rates: bool) -> dict[Cost, str]:
    """Return the unit of each cost: if the models have rates, some are per second of camera time.

    Examples:
        >>> cost_units(has_rates=True)
        {'bytes': 'MB', 'macs': 'M/s', 'activation': 'MB', 'latency': 'ms/s'}
    """
    per_second: dict[Cost, str] = {"macs": "M/s", "latency": "ms/s"}
    return COST_UNITS | per_second if has_rates else COST_UNITS


class LatencyUnavailable(MergeSearchError):
    """The search minimises a measured latency, but this process runs no network."""


@dataclass(frozen=True)
class PredictedPlan:
    """A plan with its bytes and the quality that the proxy predicts."""

    plan: SharePlan
    bytes: int
    proxy: float
    """Mean over the models of the share of its quality that each keeps, 0 to 1."""
    worst: float
    """The lowest share of its quality that any model keeps, 0 to 1."""


@dataclass(frozen=True)
class EvaluatedPlan(PredictedPlan):
    """A predicted plan with the costs that the search minimises."""

    costs: tuple[float, ...]
    """The costs that the problem names, in its order and in `PlanEvaluator.cost_units`."""

    @property
    def objectives(self) -> tuple[float, ...]:
        """The values to minimise: the costs, and the negative predicted quality."""
        return (*self.costs, -self.proxy)


class PlanEvaluator:
    """Computes the objectives of plans."""

    def __init__(
        self, problem: Problem, measure_latency: Callable[[SharePlan], float] | None = None
    ) -> None:
        """Prepare for a problem.

        `measure_latency` returns milliseconds of a plan: per frame or, if the problem has rates,
        per second of camera time. It is needed only if latency is among the problem's costs.
        """
        self.problem = problem
        self.costs = CostModel(problem.facts)
        self.proxy = Proxy(problem.quality_by_share, problem.layouts, problem.rounding_losses)
        self._predicted: dict[SharePlan, PredictedPlan] = {}
        self._measure: dict[Cost, Callable[[SharePlan], float]] = {
            "bytes": lambda plan: self.predict(plan).bytes / MEGA,
            "macs": lambda plan: self._macs(plan) / MEGA,
            "activation": lambda plan: self.costs.activation(plan) / MEGA,
            "latency": measure_latency or _refuse_latency,
        }

    def predict(self, plan: SharePlan) -> PredictedPlan:
        """Return a canonical plan's bytes and predicted quality; nothing is measured."""
        if plan not in self._predicted:
            by_model = self.proxy.by_model(plan).values()
            proxy = sum(by_model) / len(by_model)
            self._predicted[plan] = PredictedPlan(
                plan, self.costs.bytes(plan), proxy, min(by_model)
            )
        return self._predicted[plan]

    def evaluate(self, plan: SharePlan) -> EvaluatedPlan:
        """Return a canonical plan with its costs; a latency is measured again at each call.

        Raises:
            LatencyUnavailable: the problem minimises latency, and there is no way to measure it.
        """
        return self.with_costs(
            plan, tuple(self._measure[cost](plan) for cost in self.problem.costs)
        )

    def with_costs(self, plan: SharePlan, costs: tuple[float, ...]) -> EvaluatedPlan:
        """Return a canonical plan with costs that were computed before."""
        predicted = self.predict(plan)
        return EvaluatedPlan(plan, predicted.bytes, predicted.proxy, predicted.worst, costs)

    def macs_per_second(self, plan: SharePlan) -> float | None:
        """Return the MACs per second of camera time; None if the models have no rates."""
        rates = self.problem.rates
        return self.costs.macs_per_second(plan, rates) if rates else None

    def _macs(self, plan: SharePlan) -> float:
        per_second = self.macs_per_second(plan)
        return self.costs.macs(plan) if per_second is None else per_second

    @property
    def cost_units(self) -> Mapping[Cost, str]:
        """The unit of each cost of the problem."""
        return cost_units(has_rates=bool(self.problem.rates))

    def is_feasible(self, plan: PredictedPlan) -> bool:
        """Return whether the plan lies within the problem's limits."""
        return self.problem.limits.allow(plan.bytes, plan.worst)


def _refuse_latency(plan: SharePlan) -> float:
    raise LatencyUnavailable(
        "this search minimises measured latency, and latencies of two machines do not compare: "
        "it cannot be joined; run it with one process"
    )
