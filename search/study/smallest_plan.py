"""The smallest plan of a space: what a budget can be at least."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from search.study.objectives import PlanEvaluator, Predicted
from search.study.problem import Problem
from spaces.plan import SharePlan

LOOKED_THROUGH = 5_000
"""Spaces of at most so many combinations are looked through."""


def smallest(problem: Problem, valuer: PlanEvaluator) -> Predicted:
    """The plan of fewest bytes that the space is known to hold.

    A small space is looked through. In a large one: coordinate descent on bytes alone, starting
    from nothing shared. On equal bytes the better proxy wins.
    """
    found, encoding = valuer.predict(SharePlan()), problem.encoding
    if encoding.size <= LOOKED_THROUGH:
        names = [slot.name for slot in encoding.slots]
        for chosen in itertools.product(*(slot.choices for slot in encoding.slots)):
            plan = encoding.decode(dict(zip(names, chosen, strict=True)))
            found = min(found, valuer.predict(plan), key=_by_bytes)
        return found
    for order in _trunk_orders(problem):
        found = min(found, _descend(problem, valuer, order, SharePlan()), key=_by_bytes)
    return found


def smallest_thoroughly(problem: Problem, valuer: PlanEvaluator) -> Predicted:
    """As `smallest`, but a large space is descended from every single share: before a budget is
    refused, seconds do not matter."""
    found, encoding = smallest(problem, valuer), problem.encoding
    if encoding.size <= LOOKED_THROUGH:
        return found
    shares = [s for slot in encoding.slots for s in slot.choices.values() if s is not None]
    for order in _trunk_orders(problem):
        for share in shares:
            start = SharePlan((share,))
            found = min(found, _descend(problem, valuer, order, start), key=_by_bytes)
    return found


def _trunk_orders(problem: Problem) -> list[list[str]]:
    """Orders of the slots, each with one model's last: that model is left whole for the others."""
    slots = problem.encoding.slots
    return [
        [s.name for s in sorted(slots, key=lambda s: s.name.partition(":")[0] == trunk)]
        for trunk in problem.layouts
    ]


def _descend(
    problem: Problem, valuer: PlanEvaluator, order: Sequence[str], start: SharePlan
) -> Predicted:
    encoding = problem.encoding
    slots = {slot.name: slot for slot in encoding.slots}
    parameters = encoding.encode(start)
    best = valuer.predict(encoding.decode(parameters))
    improved = True
    while improved:
        improved = False
        for name in order:
            for choice in slots[name].choices:
                tried = {**parameters, name: choice}
                found = valuer.predict(encoding.decode(tried))
                if _by_bytes(found) < _by_bytes(best):
                    parameters, best, improved = tried, found, True
    return best


def _by_bytes(found: Predicted) -> tuple[int, float]:
    return (found.bytes, -found.proxy)
