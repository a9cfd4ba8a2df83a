"""The metric `screened` against `fidelity`: processor time, and the front that each leads to.

    OMP_NUM_THREADS=1 python bench/screening.py runs/quickstart.yaml [KEY=VALUE ...]

Both metrics value all linear shares of the config's models on its frames, without their caches.
The front of bytes and quality is computed by either, exactly where that is possible, and valued by
the fidelity in full: the ratio of the hypervolumes says what screening loses. The last line is
JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from search.config.loading import load_config
from search.metrics.fidelity import HOPELESS
from search.metrics.registry import METRICS
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import observe, open_frames
from search.statistics.observed import Observed
from search.study.exact.branch_and_bound import TooLarge, exact_front
from search.study.local_front.pareto_search import local_front
from search.study.objectives import PlanEvaluator
from search.study.pareto import hypervolume
from search.study.problem import Problem
from search.utils.reporter import SILENT
from spaces.plan import LINEAR, Share, SharePlan


def main(arguments: Sequence[str]) -> None:
    config = load_config(Path(arguments[0]), arguments[1:])
    deployment = load_deployment(config, SILENT)
    observed = replace(observe(config, deployment, open_frames(config, SILENT), SILENT), parts=())
    shares = deployment.shares((LINEAR,))
    observed.maps_for([SharePlan((share,)) for share in shares])  # solved once, for both
    values, seconds = {}, {}
    for name in ("fidelity", "screened"):
        start = time.process_time()
        values[name] = METRICS[name].similarities(observed, shares)
        seconds[name] = time.process_time() - start
    volumes = {
        name: volume(observed, front_plans(observed, by_share), values["fidelity"])
        for name, by_share in values.items()
    }
    record = {
        "models": len(deployment.models),
        "shares": len(shares),
        "held_out": len(observed.held_out),
        "fidelity_s": round(seconds["fidelity"], 1),
        "screened_s": round(seconds["screened"], 1),
        "cost": round(seconds["screened"] / seconds["fidelity"], 3),
        "hypervolume": round(volumes["screened"] / volumes["fidelity"], 4),
    }
    print(f"{config.name}: {record['shares']} shares of {record['models']} models")
    print(f"  fidelity {record['fidelity_s']} s, screened {record['screened_s']} s of one core")
    print(f"  hypervolume of the front {record['hypervolume']} of that by all fidelities")
    print(json.dumps(record))


def problem_of(observed: Observed, values: Mapping[Share, float]) -> Problem:
    kept = {share: value for share, value in values.items() if value > HOPELESS}
    return Problem(observed.deployment.facts, kept)


def front_plans(observed: Observed, values: Mapping[Share, float]) -> list[SharePlan]:
    problem = problem_of(observed, values)
    try:
        return [plan.plan for plan in exact_front(problem).front]
    except TooLarge:
        return local_front(problem, ())


def volume(observed: Observed, plans: Sequence[SharePlan], values: Mapping[Share, float]) -> float:
    """Return the hypervolume of plans by these values."""
    known = {share for plan in plans for share in plan.shares}
    by_share = {**dict.fromkeys(known, 0.0), **values}
    evaluator = PlanEvaluator(Problem(observed.deployment.facts, by_share))
    valued = [evaluator.predict(plan) for plan in plans]
    unmerged = evaluator.costs.unmerged_bytes
    return hypervolume([(v.bytes / unmerged, v.proxy) for v in valued], (1.0, 0.0))


if __name__ == "__main__":
    main(sys.argv[1:])
