"""Plans worth trying before any sampler is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from search.problem import Problem
from spaces.cost import CostModel
from spaces.plan import Ref, Share, SharePlan


def starting_plans(problem: Problem, known: Iterable[SharePlan] = ()) -> list[SharePlan]:
    """What is known to be good (the smallest plan, an earlier front); nothing shared; share after
    share by the bytes they save; the best share of each recipient stage; the deepest same-stage
    share of each pair of models. Each once, canonical, and only as far as the space holds it.
    """
    encoding = problem.encoding
    singles = (SharePlan((share,)) for share in (*_best(problem), *_deepest(problem)))
    wanted = (*known, SharePlan(), *greedy(problem, by_bytes(problem)), *singles)
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


def _deepest(problem: Problem) -> Iterator[Share]:
    """For each donor and recipient model the deepest share between stages of one name: the
    recipient's whole prefix up to it is the donor's. Of its adapters the one that keeps most."""
    deepest: dict[tuple[str, str], Share] = {}

    def rank(share: Share) -> tuple[int, float]:
        layout = problem.layouts[share.recipient.model]
        return layout.index(share.recipient.stage), problem.kept[share]

    for share in sorted(problem.kept):
        pair = (share.donor.model, share.recipient.model)
        if share.donor.stage == share.recipient.stage and (
            pair not in deepest or rank(share) > rank(deepest[pair])
        ):
            deepest[pair] = share
    return iter(deepest.values())
