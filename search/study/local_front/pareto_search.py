"""A Pareto local search over whole neighbourhoods (Paquete, Chiarandini and Stuetzle 2004).

The archive holds layers: the non-dominated plans so far, the plans that only these dominate, and
so on. A plan's neighbours differ from it in the share of one segment, or in the precision profile.
All neighbours of a plan are valued together. First the front is explored; when all neighbours of
all its members are known, the next layer, from which steps lead on that no member of the front
offers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.study.local_front.layers import covering_order, layers
from search.study.local_front.valuation import LOOKED_UP, Valuation
from search.study.local_front.valued_plans import ValuedPlans, join_plans
from search.study.objectives import EvaluatedPlan
from search.study.pareto import nondominated_indices
from search.study.problem import Cost, Problem
from spaces.plan import SharePlan

MOST_ENUMERATED = 50_000
"""Of a space of at most this many combinations all are valued."""
MOST_EXAMINED = 1_000_000
"""The search before a study ends when it has valued this many plans."""
PLANS_PER_STEP = 65_536
"""About how many plans are valued before the archive is updated."""
ARCHIVE_LAYERS = 3
"""Layers of the archive with one cost; with several costs the front alone is wide enough."""
MOST_MEMBERS = 256
"""The most plans of a layer; a larger one is thinned evenly."""
MOST_PLANS = 200
"""The most plans of a front that become starting plans."""


def looked_up_costs(problem: Problem) -> tuple[Cost, ...]:
    """Return the costs of a problem that tables give.

    There are none if latency is among the costs: each trial then takes a second, so that plans
    that are only good in other costs are no good start.
    """
    if "latency" in problem.costs:
        return ()
    return tuple(cost for cost in problem.costs if cost in LOOKED_UP)


def local_front(
    problem: Problem, seeds: Sequence[SharePlan], most_examined: int = MOST_EXAMINED
) -> list[SharePlan]:
    """Return a front of plans found from `seeds`: canonical, within the limits, non-dominated.

    The costs are those that tables give; without any of them there is no front. The search ends
    when it has valued `most_examined` plans. At most MOST_PLANS plans are returned, in an order in
    which the first few cover the front already. The same problem and seeds give the same plans.
    """
    costs = looked_up_costs(problem)
    return front_by(Valuation(problem, costs), seeds, most_examined) if costs else []


def front_by(
    valuation: Valuation, seeds: Sequence[SharePlan], most_examined: int = MOST_EXAMINED
) -> list[SharePlan]:
    """Return the front of the problem of a valuation, as `local_front` does."""
    search = ParetoSearch(valuation, seeds)
    if valuation.problem.space.size <= MOST_ENUMERATED:
        search.enumerate()
    else:
        search.run(most_examined)
    front = search.front()
    objectives = len(valuation.problem.costs) + 1
    points = np.array([plan.objectives for plan in front]).reshape(len(front), objectives).T
    return [front[index].plan for index in covering_order(points, MOST_PLANS)]


class ParetoSearch:
    """The archive, and which of its plans have been explored."""

    def __init__(self, valuation: Valuation, seeds: Sequence[SharePlan]) -> None:
        self.valuation = valuation
        nothing_shared = [
            valuation.problem.space.precision.apply(SharePlan(), str(number))
            for number in range(len(valuation.profiles))
        ]
        seeded = valuation.allowed(valuation.columns([*nothing_shared, *seeds]))
        self.archive = self._layers_of([seeded])
        """The plans of each layer."""
        self._explored: set[int] = set()
        """Keys of the plans whose neighbours are known."""

    def enumerate(self) -> None:
        """Value all plans of the space."""
        everything = self.valuation.allowed(self.valuation.all_columns())
        self.archive = self._layers_of([*self.archive, everything])

    def run(self, most_examined: int = MOST_EXAMINED) -> None:
        """Explore plans until all of the archive are explored, or so many were valued."""
        while self.valuation.examined < most_examined:
            plans = self._next_plans()
            if not len(plans):
                return
            self._explored.update(plans.keys().tolist())
            neighbours = self.valuation.allowed(self.valuation.neighbours(plans.columns))
            self.archive = self._layers_of([*self.archive, neighbours])

    def front(self) -> list[EvaluatedPlan]:
        """Return the front as the evaluator values it, by rising first cost."""
        plans = [
            plan
            for plan in self.valuation.evaluated(self.archive[0])
            if self.valuation.evaluator.is_feasible(plan)
        ]
        return [plans[i] for i in nondominated_indices([plan.objectives for plan in plans])]

    def _next_plans(self) -> ValuedPlans:
        """Return plans that are not explored, of the first layer that has any."""
        size = sum(len(options) for options in self.valuation.choices)
        for layer in self.archive:
            keys = layer.keys().tolist()
            new = np.array([k for k, key in enumerate(keys) if key not in self._explored], np.intp)
            if len(new):
                # Evenly over the front, so that a search that is cut short has seen all of it.
                count = max(1, PLANS_PER_STEP // size)
                return layer.take(new[covering_order(layer.objectives[:, new], count)])
        return self.archive[0].take(slice(0, 0))

    def _layers_of(self, parts: Sequence[ValuedPlans]) -> list[ValuedPlans]:
        plans = join_plans(parts).distinct()
        count = ARCHIVE_LAYERS if len(plans.objectives) == 2 else 1
        found = [plans.take(layer) for layer in layers(plans.objectives, count)]
        return [
            layer.take(np.sort(covering_order(layer.objectives, MOST_MEMBERS)))
            if len(layer) > MOST_MEMBERS
            else layer
            for layer in found
        ] or [plans]
