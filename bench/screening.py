"""The metric `screened` against `fidelity`: processor time, and the front that each leads to.

    OMP_NUM_THREADS=1 python bench/screening.py runs/quickstart.yaml [KEY=VALUE ...]
    OMP_NUM_THREADS=1 python bench/screening.py runs/eight.yaml --models 2 3 4 6 8

Both metrics value all linear shares of the config's models on its frames, without their caches.
The front of bytes and quality is computed by either, exactly where that is possible, and valued by
the fidelity in full: the ratio of the hypervolumes says what screening loses. With --models, the
first 2, 3, ... models of the config are measured, and `growth` is the power of the number of
models by which the time of either metric grows, from the smallest number above 2 to the largest.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from search.config.loading import load_config
from search.config.run import RunConfig
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
from spaces.shares import Pair

COMPARED = ("fidelity", "screened")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--models", type=int, nargs="*", default=[])
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    records = [measure(config, count) for count in sorted(options.models) or [len(config.models)]]
    print(json.dumps({"name": config.name, "by_models": records, "growth": growth(records)}))


def measure(config: RunConfig, count: int) -> dict[str, float]:
    """Compare the metrics on the first `count` models of a config."""
    names = [*config.models][:count]
    kept = {
        section: {name: values[name] for name in names if name in values}
        for section, values in (("models", config.models), ("truth", config.truth))
    }
    config = config.model_copy(update=kept)
    deployment = load_deployment(config, SILENT)
    observed = replace(observe(config, deployment, open_frames(config, SILENT), SILENT), parts=())
    shares = deployment.shares((LINEAR,))
    start = time.process_time()
    observed.statistics.solve(Pair(share.donor, share.recipient) for share in shares)
    solve_s = time.process_time() - start
    values, seconds = {}, {}
    for name in COMPARED:
        start = time.process_time()
        values[name] = METRICS[name].similarities(observed, shares)
        seconds[name] = time.process_time() - start
    volumes = {
        name: volume(observed, front_plans(observed, by_share), values["fidelity"])
        for name, by_share in values.items()
    }
    record = {
        "models": count,
        "shares": len(shares),
        "held_out": len(observed.held_out),
        "solve_s": round(solve_s, 1),
        "fidelity_s": round(seconds["fidelity"], 1),
        "screened_s": round(seconds["screened"], 1),
        "cost": round(seconds["screened"] / seconds["fidelity"], 3),
        "hypervolume": round(volumes["screened"] / volumes["fidelity"], 4),
    }
    print(f"{count} models, {len(shares)} shares: fidelity {record['fidelity_s']} s, screened "
          f"{record['screened_s']} s of one core, hypervolume {record['hypervolume']}",
          flush=True)  # fmt: skip
    return record


def growth(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the power of the number of models by which the time of each metric grows."""
    above_two = [record for record in records if record["models"] > 2]
    if len(above_two) < 2:
        return {}
    first, last = above_two[0], above_two[-1]
    factor = math.log(last["models"] / first["models"])
    return {
        name: round(math.log(last[f"{name}_s"] / first[f"{name}_s"]) / factor, 2)
        for name in COMPARED
    }


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
    main()
