"""Plans worth trying before any sampler is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from search.study.problem import Problem
from spaces.cost import CostModel
from spaces.plan import Ref, Share, SharePlan


def starting_plans(problem: Problem, known: Iterable[SharePlan] = ()) -> list[SharePlan]:
    """What is known to be good (the smallest plan, an earlier front); nothing shared; one model's
    prefix for all, the deepest first; share after share by the bytes they save; the best share
    of each recipient stage. Each once, canonical, and only as far as the space holds it.
    """
    encoding = problem.encoding
    chain = greedy(problem, by_bytes(problem))
    singles = (SharePlan((share,)) for share in _best(problem))
    wanted = (*known, SharePlan(), *_trunks(problem), *chain, *singles)
    return list(dict.fromkeys(encoding.decode(encoding.encode(plan)) for plan in wanted))


def by_bytes(problem: Problem) -> list[Share]:
    """The shares by what the merged set holds with each alone, the fewest bytes first."""
    costs = CostModel(problem.facts)
    return sorted(problem.kept, key=lambda share: (costs.bytes(SharePlan((share,))), share))


def greedy(problem: Problem, order: Iterable[Share]) -> Iterator[SharePlan]:
    """Share after share in their order, each that fits beside those taken; every step's plan."""
    encoding, plan = problem.encoding, SharePlan()
    for share in order:
        if share.recipient in plan.by_recipient():
            continue
        grown = encoding.decode(encoding.encode(SharePlan((*plan.shares, share))))
        if set(plan.shares) < set(grown.shares):
            plan = grown
            yield plan


def _best(problem: Problem) -> Iterator[Share]:
    """For each recipient stage the share that keeps most."""
    best: dict[Ref, Share] = {}
    for share in sorted(problem.kept, key=lambda s: (-problem.kept[s], s)):
        best.setdefault(share.recipient, share)
    return iter(best.values())


def _trunks(problem: Problem) -> Iterator[SharePlan]:
    """For each model and stage, the deepest first: all others take that stage's representation
    from it at their stage of the same name, and so its whole prefix. Such a trunk is far from
    another: no step from one to the other is an improvement."""
    same: dict[Ref, dict[str, Share]] = {}
    for share in sorted(problem.kept, key=lambda s: (problem.kept[s], s)):
        if share.donor.stage == share.recipient.stage:
            same.setdefault(share.donor, {})[share.recipient.model] = share
    for name, layout in problem.layouts.items():
        for stage in reversed(layout.stages):
            yield SharePlan(tuple(same.get(Ref(name, stage), {}).values()))
