"""The smallest plan, by one descent after the other: the slow twin of `smallest_plan`."""

from __future__ import annotations

from collections.abc import Sequence

from search.study.objectives import PlanEvaluator, PredictedPlan
from search.study.problem import Problem
from spaces.plan import SharePlan


def slow_smallest_plan(problem: Problem, evaluator: PlanEvaluator) -> PredictedPlan:
    """Return the smallest plan that a descent for each model, as the trunk, finds."""
    names = list(problem.space.choices)
    orders = (
        sorted(names, key=lambda name: name.partition(":")[0] == trunk)
        for trunk in problem.layouts
    )
    descents = (_descend(problem, evaluator, order) for order in orders)
    return min(evaluator.predict(SharePlan()), *descents, key=_by_bytes)


def _descend(problem: Problem, evaluator: PlanEvaluator, order: Sequence[str]) -> PredictedPlan:
    """Change one parameter at a time, in the order given, while the plan becomes smaller."""
    space = problem.space
    parameters = space.encode(SharePlan())
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
