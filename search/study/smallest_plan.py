"""The smallest plan of a space: the lowest budget that can be met."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from search.study.objectives import PlanEvaluator, PredictedPlan
from search.study.problem import Problem
from spaces.plan import SharePlan

MAX_ENUMERATED = 5_000
"""A space of at most this many combinations is enumerated."""


def smallest_plan(problem: Problem, evaluator: PlanEvaluator) -> PredictedPlan:
    """Return the smallest plan found; of equal bytes the one with the better proxy.

    A small space is enumerated. In a large one, coordinate descent on the bytes starts from
    nothing shared.
    """
    if problem.space.size <= MAX_ENUMERATED:
        return _smallest_of_all(problem, evaluator)
    descents = (
        _descend(problem, evaluator, order, SharePlan()) for order in _trunk_orders(problem)
    )
    return min(evaluator.predict(SharePlan()), *descents, key=_by_bytes)


def smallest_plan_thorough(problem: Problem, evaluator: PlanEvaluator) -> PredictedPlan:
    """Return the smallest plan found, starting a descent from every single share, too.

    This takes seconds on a large space, which do not matter before a budget is refused.
    """
    smallest, space = smallest_plan(problem, evaluator), problem.space
    if space.size <= MAX_ENUMERATED:
        return smallest
    shares = [s for slot in space.slots for s in slot.choices.values() if s is not None]
    for order in _trunk_orders(problem):
        for share in shares:
            descended = _descend(problem, evaluator, order, SharePlan((share,)))
            smallest = min(smallest, descended, key=_by_bytes)
    return smallest


def _smallest_of_all(problem: Problem, evaluator: PlanEvaluator) -> PredictedPlan:
    space = problem.space
    plans = (
        space.decode(dict(zip(space.choices, keys, strict=True)))
        for keys in itertools.product(*space.choices.values())
    )
    return min(map(evaluator.predict, (SharePlan(), *plans)), key=_by_bytes)


def _trunk_orders(problem: Problem) -> list[list[str]]:
    """Return an order of the parameters for each model.

    The model comes last as the trunk of the others.
    """
    names = list(problem.space.choices)
    return [
        sorted(names, key=lambda name: name.partition(":")[0] == trunk)
        for trunk in problem.layouts
    ]


def _descend(
    problem: Problem, evaluator: PlanEvaluator, order: Sequence[str], start: SharePlan
) -> PredictedPlan:
    """Change one parameter at a time, in the order given, while the plan becomes smaller."""
    space = problem.space
    parameters = space.encode(start)
    best = evaluator.predict(space.decode(parameters))
    improved = True
    while improved:
        improved = False
        for name in order:
            for choice in space.choices[name]:
                changed = {**parameters, name: choice}
                plan = evaluator.predict(space.decode(changed))
                if _by_bytes(plan) < _by_bytes(best):
                    parameters, best, improved = changed, plan, True
    return best


def _by_bytes(plan: PredictedPlan) -> tuple[int, float]:
    return (plan.bytes, -plan.proxy)
