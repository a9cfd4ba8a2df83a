"""Plans that are evaluated before the sampler proposes any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from search.study.local_front.pareto_search import local_front, looked_up_costs
from search.study.problem import Problem
from spaces.cost import CostModel
from spaces.plan import Ref, Share, SharePlan


def starting_plans(problem: Problem, known_plans: Sequence[SharePlan] = ()) -> list[SharePlan]:
    """Return plans that are likely to be good, each once and canonical.

    In this order: `known_plans` (the smallest plan, an earlier front); nothing shared, with each
    precision profile; the front that a local search finds by tables, see `local_front`; and, if
    some cost of the problem is in no table, the heuristic plans. Shares that the space does not
    hold are left out.
    """
    space = problem.space
    first, heuristic = [*known_plans, *unmerged_plans(problem)], list(heuristic_plans(problem))
    front = local_front(problem, [*first, *heuristic])
    rest = [] if looked_up_costs(problem) == problem.costs else heuristic
    return list(
        dict.fromkeys(space.decode(space.encode(plan)) for plan in (*first, *front, *rest))
    )


def unmerged_plans(problem: Problem) -> list[SharePlan]:
    """Return the plans that share nothing: one for each precision profile."""
    precision = problem.space.precision
    return [precision.apply(SharePlan(), key) for key in precision.keys] or [SharePlan()]


def heuristic_plans(problem: Problem) -> Iterator[SharePlan]:
    """Yield plans that are good by a rule, all with the precision profile of the fewest bytes.

    In this order: the prefix of one model as the trunk of all others, the deepest first; share
    after share by the bytes that they save; the best share of each recipient stage.
    """
    precision = problem.space.precision
    by_bytes = greedy_plans(problem, shares_by_bytes(problem))
    single = (SharePlan((share,)) for share in _best_by_recipient(problem))
    for plan in (*_trunk_plans(problem), *by_bytes, *single):
        yield precision.apply(plan, precision.keys[-1]) if precision.keys else plan


def shares_by_bytes(problem: Problem) -> list[Share]:
    """Return the shares by rising bytes of the plan that has this share only."""
    costs = CostModel(problem.facts)
    return sorted(
        problem.quality_by_share, key=lambda share: (costs.bytes(SharePlan((share,))), share)
    )


def greedy_plans(problem: Problem, order: Iterable[Share]) -> Iterator[SharePlan]:
    """Add the shares in order, unless the plan so far rules one out; yield each new plan."""
    space, plan = problem.space, SharePlan()
    for share in order:
        if share.recipient in plan.by_recipient():
            continue
        extended = space.decode(space.encode(SharePlan((*plan.shares, share))))
        if set(plan.shares) < set(extended.shares):
            plan = extended
            yield plan


def _best_by_recipient(problem: Problem) -> Iterator[Share]:
    """Yield, for each recipient stage, the share that keeps most quality."""
    quality, best = problem.quality_by_share, dict[Ref, Share]()
    for share in sorted(quality, key=lambda s: (-quality[s], s)):
        best.setdefault(share.recipient, share)
    return iter(best.values())


def _trunk_plans(problem: Problem) -> Iterator[SharePlan]:
    """Yield, for each model and stage, the plan in which the stages up to it are the trunk.

    The deepest stage of a model comes first.

    All other models take the stage's representation at their stage of the same name. No single
    step from one trunk to another is an improvement, so a local search would not find them.
    """
    quality = problem.quality_by_share
    same_stage: dict[Ref, dict[str, Share]] = {}
    for share in sorted(quality, key=lambda s: (quality[s], s)):
        if share.donor.stage == share.recipient.stage:
            same_stage.setdefault(share.donor, {})[share.recipient.model] = share
    for name, layout in problem.layouts.items():
        for stage in reversed(layout.stages):
            yield SharePlan(tuple(same_stage.get(Ref(name, stage), {}).values()))
