"""Measure how well the proxy predicts plans that mix shares and precisions, on real photos.

    MERGE_SEARCH_DATA=/path/to/data python bench/precision.py

The models are lite0 and lite1 with their ImageNet weights, the photos those of `bench/metrics.py`,
in the same split: half of them, unlabelled, for statistics, rounding losses and fidelity, the
reporting ones for accuracy. A random plan has 0 to `MOST` shares and one of the precision profiles
that the search would use, or (every second plan) a random precision for each stage and head.

A table gives the losses of all stages and the head in int8, as the root of the sum of their
squares, as the proxy composes them, and as their sum. The last line is one JSON object: `r` is
Pearson's r of the proxy with the quality kept, `r_shares` that of the same plans' shares alone
with the quality kept in float32, `mean_error` the mean of predicted minus kept.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np
from metrics import FLOOR, build_config, split_photos
from samplers import DATA

from search.data.ground_truth import Truth, truth_subset
from search.data.label_table import csv_truth
from search.evaluation.evaluate import (
    UNMERGED_PLAN,
    EvaluationSetup,
    compute_accuracy,
    verification_steps,
)
from search.evaluation.per_frame import main_score
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import sampling_of
from search.pipelines.prepare import (
    build_problem,
    compute_rounding_losses,
    compute_similarities,
    observe,
)
from search.statistics.observed import Observed
from search.study.precision.profiles import RoundingLosses, apply_profile, weight_owners
from search.study.problem import Problem
from search.study.proxy import Proxy
from search.utils.console import ConsoleReporter
from search.utils.reporter import Reporter
from spaces.errors import BadPlan
from spaces.liveness import canonical
from spaces.plan import LINEAR, Precision, SharePlan

MODELS = ("lite0", "lite1")
PRECISIONS: list[Precision] = ["float32", "float16", "int8"]
SEED, MOST = 7, 3
NEVER_BELOW = 0.3
"""Shares with a lower similarity are not used: plans with them keep nothing, which is easy to
predict."""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--photos", type=int, default=400, help="labelled photos, at most")
    arguments = parser.parse_args()
    start, reporter = time.perf_counter(), ConsoleReporter()
    config = build_config(MODELS)
    config = config.model_copy(
        update={"search": config.search.model_copy(update={"precision": PRECISIONS})}
    )
    deployment = load_deployment(config, reporter)
    photos = csv_truth(DATA / "labels.csv", sampling_of(config.frames))
    unlabelled, parts = split_photos(photos, MODELS)
    truth = {name: first(labels, arguments.photos) for name, labels in parts["reporting"].items()}
    observed = observe(config, deployment, unlabelled, reporter)
    similarity = compute_similarities(config, observed, (LINEAR,), reporter)
    losses = compute_rounding_losses(config, observed, reporter)
    problem = build_problem(config, deployment, similarity, losses)
    plans = random_plans(problem, arguments.plans)
    shares_only = [plan.with_precisions({}) for plan in plans]
    quality = measure_quality([*plans, *shares_only], observed, truth, reporter)
    proxy = Proxy(problem.quality_by_share, problem.layouts, losses)
    predicted = [proxy.quality(plan) for plan in (*plans, *shares_only)]
    count = len(plans)
    reporter.table(
        "Losses of all stages and heads in int8",
        ["model", "root of squares", "sum"],
        [[name, *(f"{loss:.4f}" for loss in composed(losses, name))] for name in MODELS],
    )
    print(
        json.dumps(
            {
                "plans": count,
                "photos": len(truth["lite0"].frames),
                "profiles": len(problem.profiles),
                "r": pearson(predicted[:count], quality[:count]),
                "r_shares": pearson(predicted[count:], quality[count:]),
                "mean_error": round(
                    float(np.mean(np.array(predicted[:count]) - quality[:count])), 4
                ),
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
    )


def first(labels: Truth, count: int) -> Truth:
    return truth_subset(labels, range(min(count, len(labels.frames))))


def random_plans(problem: Problem, count: int) -> list[SharePlan]:
    """Return different plans of 0 to MOST shares, of a profile and of any precisions in turn."""
    rng = random.Random(SEED)
    good = [s for s, value in problem.quality_by_share.items() if value > max(FLOOR, NEVER_BELOW)]
    owners = [*weight_owners(problem.facts)]
    plans: dict[SharePlan, None] = {}
    while len(plans) < count:
        profile = dict(rng.choice(problem.profiles))
        if len(plans) % 2:
            profile = {owner: rng.choice(PRECISIONS) for owner in owners}
        try:
            chosen = tuple(rng.sample(good, rng.randint(0, MOST)))
            plan = canonical(SharePlan(chosen), problem.layouts)
        except BadPlan:  # two shares into one stage, or a cycle
            continue
        plans[apply_profile(plan, profile, problem.facts)] = None
    return list(plans)


def measure_quality(
    plans: Sequence[SharePlan],
    observed: Observed,
    truth: Mapping[str, Truth],
    reporter: Reporter,
) -> list[float]:
    """Return the quality that each plan keeps, a few plans at a time to bound the memory."""
    deployment = observed.deployment
    distinct = list(dict.fromkeys(plans))
    quality: dict[SharePlan, float] = {}
    setup = EvaluationSetup(
        deployment.fused_models, deployment.facts, observed.maps_for(distinct), 16
    )
    (unmerged,) = compute_accuracy(setup, [UNMERGED_PLAN], truth, lambda done: None)
    groups = [distinct[k : k + 40] for k in range(0, len(distinct), 40)]
    reporter.step(f"Accuracy of {len(distinct)} plans")
    with reporter.progress(
        "steps", sum(verification_steps(len(group), truth) for group in groups)
    ) as progress:
        for group in groups:
            for plan, scores in zip(
                group, compute_accuracy(setup, group, truth, progress), strict=True
            ):
                quality[plan] = float(
                    np.mean([main_score(s) / main_score(unmerged[n]) for n, s in scores.items()])
                )
    return [quality[plan] for plan in plans]


def composed(losses: RoundingLosses, name: str) -> tuple[float, float]:
    """Return the losses of a model's stages and head in int8, composed in two ways."""
    values = [loss for (owner, p), loss in losses.items() if owner.model == name and p == "int8"]
    return sqrt(sum(value**2 for value in values)), sum(values)


def pearson(one: Sequence[float], other: Sequence[float]) -> float:
    return round(float(np.corrcoef(one, other)[0, 1]), 4)


if __name__ == "__main__":
    main()
