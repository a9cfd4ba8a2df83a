"""Precision profiles: how all weights are stored, from the smallest loss to the fewest bytes.

The roundings of several stages act as independent noise: their losses add up as the root of the
sum of their squares (`search.study.proxy`). So the trade of bytes for loss is a sum over stages,
and for any price of a byte each stage takes its own best precision. The profiles are the
assignments that are best for some price. They are the lower convex hull of all assignments, and
lose next to nothing against choosing the precision of every stage freely.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

from spaces.liveness import liveness
from spaces.map_folding import find_fold_targets
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.plan import HEAD, Precision, Ref, SharePlan

Profile = Mapping[Ref, Precision]
"""The precision of each stage and head by representation or head. If a share replaces the
representation of a stage, its map is stored in the precision of the stage."""
NO_PROFILE: Profile = {}
"""The profile of a problem without a choice: all weights are stored as given."""
RoundingLosses = Mapping[tuple[Ref, Precision], float]
"""The loss of each stage and head at each precision, 0 to 1: how much the answers of its model
change if only its weights are rounded."""
FactsByName = Mapping[str, ModelFacts]
MAX_PROFILES = 12


class _Step(NamedTuple):
    """A change of one stage or head to a precision of fewer bytes."""

    price: float
    """Squared loss added per byte saved."""
    owner: Ref
    precision: Precision


def precision_profiles(
    facts: FactsByName,
    losses: RoundingLosses,
    precisions: Sequence[Precision],
    most: int = MAX_PROFILES,
) -> tuple[Profile, ...]:
    """Return at most `most` profiles, from the smallest loss to the fewest bytes.

    `precisions` are those to choose from; without any there is no profile.
    """
    if not precisions:
        return ()
    best: dict[Ref, Precision] = {}
    steps: list[_Step] = []
    for owner in weight_owners(facts):
        hull = _hull(owner, facts, losses, precisions)
        best[owner] = hull[0].precision
        steps += [_step(owner, *pair) for pair in pairwise(hull)]
    profiles: list[Profile] = [best]
    for step in sorted(steps):
        profiles.append({**profiles[-1], step.owner: step.precision})
    return tuple(_thinned(profiles, facts, losses, most))


def weight_owners(facts: FactsByName) -> Iterator[Ref]:
    """Yield the stages and heads that hold tensors."""
    for name, model in facts.items():
        for stage in (*model.layout.stages, HEAD):
            if model.tensors[stage]:
                yield Ref(name, stage)


def apply_profile(plan: SharePlan, profile: Profile, facts: FactsByName) -> SharePlan:
    """Return a canonical plan with the precisions of a profile.

    Named are only weights that the plan holds, and only where they are not stored as the models
    give them.
    """
    if not profile:
        return plan
    live = liveness(plan, layouts_by_model(facts))
    maps = {
        share.recipient
        for share in plan.shares
        if share.adapter.kind == "linear" and find_fold_targets(share, live, facts).refusal
    }
    owners = live.stages | maps | {Ref(name, HEAD) for name in facts}
    return plan.with_precisions(
        {
            owner: profile[owner]
            for owner in sorted(owners)
            if owner in profile and profile[owner] != facts[owner.model].dtype
        }
    )


def with_profile_of(
    plan: SharePlan, profiles: Sequence[Profile], facts: FactsByName
) -> tuple[Profile, ...]:
    """Return the profiles, preceded by that of a canonical plan if none of them gives it.

    A plan with a precision that the facts do not know stays outside.
    """
    shares, stored = plan.with_precisions({}), plan.precision_by_owner
    known = all(precision in facts[owner.model].stored for owner, precision in plan.precisions)
    if not profiles or not known:
        return tuple(profiles)
    if any(apply_profile(shares, profile, facts) == plan for profile in profiles):
        return tuple(profiles)
    own = {owner: stored.get(owner, facts[owner.model].dtype) for owner in weight_owners(facts)}
    return (own, *profiles)


class _Option(NamedTuple):
    bytes: int
    squared_loss: float
    precision: Precision


def _hull(
    owner: Ref, facts: FactsByName, losses: RoundingLosses, precisions: Sequence[Precision]
) -> list[_Option]:
    """Return the options on the lower convex hull, by falling bytes."""
    model = facts[owner.model]
    options = [
        _Option(
            sum(model.tensors_at(owner.stage, precision).values()),
            losses.get((owner, precision), 0.0) ** 2,
            precision,
        )
        for precision in precisions
    ]
    hull: list[_Option] = []
    for option in sorted(options):  # by rising bytes, then by rising loss
        if hull and option.squared_loss >= hull[-1].squared_loss:
            continue
        while len(hull) > 1 and _price(option, hull[-1]) >= _price(hull[-1], hull[-2]):
            hull.pop()
        hull.append(option)
    return hull[::-1]


def _price(larger: _Option, smaller: _Option) -> float:
    return (smaller.squared_loss - larger.squared_loss) / (larger.bytes - smaller.bytes)


def _step(owner: Ref, larger: _Option, smaller: _Option) -> _Step:
    return _Step(_price(larger, smaller), owner, smaller.precision)


def _thinned(
    profiles: list[Profile], facts: FactsByName, losses: RoundingLosses, most: int
) -> list[Profile]:
    """Remove profiles, each time the one whose neighbours leave the smallest gap without it."""
    points = [_bytes_and_loss(profile, facts, losses) for profile in profiles]
    kept = list(range(len(profiles)))
    while len(kept) > most:
        inner = range(1, len(kept) - 1)
        position = min(inner, key=lambda k: _gain(*(points[kept[k + d]] for d in (-1, 0, 1))))
        del kept[position]
    return [profiles[k] for k in kept]


def _bytes_and_loss(
    profile: Profile, facts: FactsByName, losses: RoundingLosses
) -> tuple[int, float]:
    total = sum(
        sum(facts[owner.model].tensors_at(owner.stage, precision).values())
        for owner, precision in profile.items()
    )
    loss = sqrt(sum(losses.get(entry, 0.0) ** 2 for entry in profile.items()))
    return total, loss


def _gain(before: tuple[int, float], point: tuple[int, float], after: tuple[int, float]) -> float:
    """Return the area that only this point of a front dominates."""
    return (before[0] - point[0]) * (after[1] - point[1])
