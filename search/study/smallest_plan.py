"""The smallest plan of a space: the lowest budget that can be met."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from search.study.exact.segments import NO_SHARE, Ints
from search.study.local_front.descent import descend
from search.study.local_front.valuation import Valuation
from search.study.objectives import PlanEvaluator, PredictedPlan
from search.study.pareto import evenly_spaced
from search.study.problem import Limits, Problem
from spaces.plan import SharePlan

MAX_ENUMERATED = 5_000
"""A space of at most this many combinations is enumerated."""
MOST_VALUED = 5_000_000
"""The thorough search ends when it has valued this many plans."""

PLANS_PER_SWEEP = 50_000
"""About how many plans the descents from single shares value while each row changes once."""


def smallest_plan(problem: Problem, evaluator: PlanEvaluator) -> PredictedPlan:
    """Return the smallest plan found; of equal bytes the one with the better proxy.

    A small space is enumerated. In a large one, coordinate descents on the bytes start from
    nothing shared, one for each model, which comes last as the trunk of the others; and from some
    of the single shares, the more of them the smaller the space.
    """
    valuation = _valuation(problem)
    if problem.space.size <= MAX_ENUMERATED:
        return _smallest(valuation, valuation.all_columns(), evaluator)
    singles = valuation.neighbours(_nothing_shared(valuation))
    sweep = max(1, len(problem.layouts) * singles.shape[1])
    some = evenly_spaced(singles.shape[1], 1 + PLANS_PER_SWEEP // sweep)
    starts = np.concatenate([_nothing_shared(valuation), singles[:, some]], axis=1)
    return _smallest(valuation, _descents(problem, valuation, starts), evaluator)


def smallest_plan_thorough(problem: Problem, evaluator: PlanEvaluator) -> PredictedPlan:
    """Return the smallest plan found, starting descents from every single share, too.

    This takes seconds on a large space, which do not matter before a budget is refused.
    """
    smallest, valuation = smallest_plan(problem, evaluator), _valuation(problem)
    if problem.space.size <= MAX_ENUMERATED:
        return smallest
    singles = valuation.neighbours(_nothing_shared(valuation))
    ends = _descents(problem, valuation, singles)
    return min(smallest, _smallest(valuation, ends, evaluator), key=_by_bytes)


def _valuation(problem: Problem) -> Valuation:
    return Valuation(replace(problem, limits=Limits()))


def _nothing_shared(valuation: Valuation) -> Ints:
    """Return the column, (rows, 1), of the plan that shares nothing, in the fewest bytes."""
    return np.array([*[NO_SHARE] * (len(valuation.choices) - 1), len(valuation.profiles) - 1])[
        :, None
    ]


def _descents(problem: Problem, valuation: Valuation, starts: Ints) -> Ints:
    """Return where descents in every order of the models from `starts`, (rows, n), end."""
    orders = np.array(_trunk_orders(problem, valuation)).T
    count = starts.shape[1]
    return descend(
        valuation,
        np.tile(starts, orders.shape[1]),
        np.repeat(orders, count, axis=1),
        MOST_VALUED,
    )


def _trunk_orders(problem: Problem, valuation: Valuation) -> list[list[int]]:
    """Return an order of the rows of a column for each model, which comes last as the trunk."""
    models = [segment.model for segment in valuation.tables[0].segments]
    rows = range(len(valuation.choices))
    return [
        sorted(rows, key=lambda row: row < len(models) and models[row] == trunk)
        for trunk in problem.layouts
    ]


def _smallest(valuation: Valuation, columns: Ints, evaluator: PlanEvaluator) -> PredictedPlan:
    """Return the smallest plan of columns without limits, or the plan that shares nothing."""
    values = valuation.values(columns)
    possible = np.flatnonzero(values.acyclic)
    order = np.lexsort((-values.quality[possible], values.bytes[possible]))
    best = valuation.plan(columns[:, possible[order[0]]])
    return min(map(evaluator.predict, (SharePlan(), best)), key=_by_bytes)


def _by_bytes(plan: PredictedPlan) -> tuple[int, float]:
    return (plan.bytes, -plan.proxy)
