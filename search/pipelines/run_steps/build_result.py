"""The third step of a run: its whole outcome as plain data, the content of result.json."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from search.config.run import RunConfig
from search.data.frames import summarise_frames
from search.pipelines.candidates import truth_records
from search.pipelines.run_steps.records import FrontSearch, FrontVerification, RunInputs
from search.results.precisions import stored_bytes_by_precision
from search.results.search_result import (
    ModelRecord,
    PlanRecord,
    Result,
    choose_candidate,
    verified_front,
)
from search.study.objectives import EvaluatedPlan, PlanEvaluator
from search.utils.timing import utc_now
from spaces.deployment import Deployment
from spaces.plan import SharePlan


def build_result(
    inputs: RunInputs,
    front_search: FrontSearch,
    verification: FrontVerification,
    seconds: Mapping[str, float],
) -> Result:
    """Return the run as plain data. `seconds` says how long each step took."""
    config, evaluator, verified = inputs.config, front_search.evaluator, verification.verified
    limits, candidates = evaluator.problem.limits, verified.candidates
    chosen = choose_candidate(candidates, config.quality_floor)
    return Result(
        name=config.name,
        seed=config.seed,
        metric=config.search.metric,
        budget_bytes=None if config.budget is None else int(limits.bytes),
        quality_floor=config.quality_floor,
        unmerged_bytes=evaluator.costs.unmerged_bytes,
        unmerged_macs=evaluator.costs.unmerged_macs,
        smallest_bytes=front_search.smallest.bytes,
        frames=summarise_frames(front_search.observed.frames),
        models=model_records(config, inputs.deployment),
        study=study_summary(config, front_search),
        baseline=verified.baseline,
        baseline_intervals=verified.intervals,
        front=[plan_record(evaluated, evaluator) for evaluated in front_search.explored.front],
        candidates=candidates,
        verified_front=verified_front(candidates),
        chosen=chosen.hash if chosen else None,
        rank_agreement=verification.rank_agreement,
        config=config.as_written(),
        base=os.path.relpath(config.base, config.out_folder),
        truth=truth_records(inputs.truth, verified),
        latency_ms=verification.latency_ms,
        refinements=verification.refinements,
        alternatives=verification.alternatives,
        rates=dict(evaluator.problem.rates),
        unmerged_macs_per_second=evaluator.macs_per_second(SharePlan()),
        seconds=dict(seconds),
        created=utc_now(),
    )


def study_summary(config: RunConfig, front_search: FrontSearch) -> dict[str, Any]:
    """Return the section `study` of result.json."""
    problem, explored = front_search.evaluator.problem, front_search.explored
    return {
        "problem": problem.hash,
        "sampler": config.search.sampler,
        "objectives": list(problem.costs),
        "trials": explored.trials,
        "space": problem.space.size,
        "exhausted": explored.exhausted,
        "hypervolume": list(explored.hypervolumes),
    }


def plan_record(evaluated: EvaluatedPlan, evaluator: PlanEvaluator) -> PlanRecord:
    """Return a plan of the study with its costs and its predicted quality."""
    return PlanRecord(
        hash=evaluated.plan.hash,
        plan=evaluated.plan.to_dict(),
        bytes=evaluated.bytes,
        macs=evaluator.costs.macs(evaluated.plan),
        saved_pct=round(100 * (1 - evaluated.bytes / evaluator.costs.unmerged_bytes), 3),
        proxy=evaluated.proxy,
        costs=dict(zip(evaluator.problem.costs, evaluated.costs, strict=True)),
        stored=stored_bytes_by_precision(evaluated.plan, evaluator.costs),
        macs_per_second=evaluator.macs_per_second(evaluated.plan),
    )


def model_records(config: RunConfig, deployment: Deployment) -> dict[str, ModelRecord]:
    """Return the section `models` of result.json."""
    return {
        name: ModelRecord(
            arch=config.models[name].arch,
            task=fact.task,
            stages=[{**asdict(stage), "shape": list(stage.shape)} for stage in fact.stages],
            head_bytes=fact.head_bytes,
            head_macs=fact.head_macs,
        )
        for name, fact in deployment.facts.items()
    }
