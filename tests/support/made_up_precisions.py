"""Made-up bytes and losses of weights at several precisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle

import numpy as np

from search.results.precisions import stored_bytes_by_precision
from search.results.search_result import CandidateRecord, Result
from search.study.precision.profiles import (
    Profile,
    RoundingLosses,
    apply_profile,
    precision_profiles,
    weight_owners,
)
from search.study.problem import Problem
from spaces.cost import CostModel
from spaces.model_facts import ModelFacts
from spaces.plan import HEAD, Precision, Ref, SharePlan

LOSS: dict[Precision, float] = {"float16": 0.01, "int8": 0.2}
"""The largest loss of a stage at each precision."""
FACTOR: dict[Precision, float] = {"float16": 0.5, "int8": 0.27}
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")


def stored_in_fewer_bytes(facts: Mapping[str, ModelFacts]) -> dict[str, ModelFacts]:
    """Return the facts with the bytes of all tensors at further precisions."""
    return {
        name: replace(
            fact,
            stored={
                precision: {
                    owner: {tensor: int(factor * size) for tensor, size in tensors.items()}
                    for owner, tensors in fact.tensors.items()
                }
                for precision, factor in FACTOR.items()
            },
        )
        for name, fact in facts.items()
    }


def random_losses(facts: Mapping[str, ModelFacts], seed: int) -> RoundingLosses:
    """Return a loss of each stage and head; one in five loses nothing."""
    rng = np.random.default_rng([seed, 3])
    return {
        (Ref(name, owner), precision): float(rng.uniform(0, largest) * (rng.random() > 0.2))
        for name, fact in facts.items()
        for owner in (*fact.layout.stages, HEAD)
        for precision, largest in LOSS.items()
    }


def with_mixed_precisions(result: Result, facts: Mapping[str, ModelFacts]) -> Result:
    """Return the result of a run with candidates that store each stage in another precision.

    `facts` know the bytes at all `PRECISIONS`; the last candidate has none but the dtype.
    """
    costs = CostModel(facts)
    profile = dict(zip(weight_owners(facts), cycle(PRECISIONS[::-1]), strict=False))
    *mixed, last = result.candidates
    candidates = [
        *(_stored_otherwise(record, profile, costs) for record in mixed),
        _stored_otherwise(last, {owner: result.dtype for owner in profile}, costs),
    ]
    hashes = {old.hash: new.hash for old, new in zip(result.candidates, candidates, strict=True)}
    return replace(
        result,
        candidates=candidates,
        chosen=hashes.get(result.chosen or ""),
        verified_front=[hashes[name] for name in result.verified_front],
    )


def _stored_otherwise(
    record: CandidateRecord, profile: Profile, costs: CostModel
) -> CandidateRecord:
    shares = SharePlan.from_dict(record.plan).with_precisions({})
    plan = apply_profile(shares, profile, costs.facts)
    return replace(
        record,
        plan=plan.to_dict(),
        hash=plan.hash,
        bytes=costs.bytes(plan),
        stored=stored_bytes_by_precision(plan, costs),
    )


def with_precision_profiles(problem: Problem, seed: int, most: int = 4) -> Problem:
    """Return the problem with a choice of precision profiles."""
    facts = stored_in_fewer_bytes(problem.facts)
    losses = random_losses(facts, seed)
    profiles = precision_profiles(facts, losses, PRECISIONS, most)
    return replace(problem, facts=facts, profiles=profiles, rounding_losses=losses)
