"""`merge-search exact`: the exact front, and how much of it a study found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.config.run import RunConfig
from search.pipelines.deployment.load import load_deployment
from search.pipelines.prepare import (
    build_problem,
    compute_rounding_losses,
    compute_similarities,
    observe,
    open_frames,
)
from search.results.precisions import parts_text, stored_bytes_by_precision
from search.results.search_result import Result
from search.study.exact.branch_and_bound import ExactFront, exact_front
from search.study.objectives import PredictedPlan
from search.study.pareto import hypervolume
from search.study.problem import Problem
from search.utils.files import make_folder, write_json
from search.utils.format import MEGABYTE, list_names, percent
from search.utils.records import BadRecord, read_record
from search.utils.reporter import Reporter
from spaces.cost import CostModel

FILE = "exact.json"
Point = tuple[int, float]
"""Bytes held and predicted quality of a plan."""


def find_exact_front(config: RunConfig, reporter: Reporter) -> ExactFront:
    """Compute the exact front of the config's problem, print it, and write it to OUT/exact.json.

    Raises:
        TooLarge: the search space is too large to be searched exhaustively.
        MergeSearchError: anything else that the user can correct.
    """
    out = make_folder(config.out_folder)
    problem = build_problem_from_config(config, reporter)
    reporter.step(f"The exact front of {problem.space.size:,} combinations")
    with reporter.working("bounding"):
        exact = exact_front(problem)
    reporter.say(f"  {len(exact.front)} plans; {exact.examined:,} partial plans examined")
    unmerged = CostModel(problem.facts).unmerged_bytes
    print_front(exact, CostModel(problem.facts), reporter)
    studied = load_studied_front(out, problem)
    if studied is not None:
        budget = min(problem.limits.bytes, unmerged)
        exact_points = [(p.bytes, p.proxy) for p in exact.front]
        share = _hypervolume(studied, budget) / _hypervolume(exact_points, budget)
        reporter.say(f"The study in {out.name} has found {percent(share)} of its hypervolume.")
    write_json(out / FILE, to_dict(exact, problem, unmerged))
    return exact


def build_problem_from_config(config: RunConfig, reporter: Reporter) -> Problem:
    """Load models and frames and return the search problem, as `run` poses it."""
    deployment = load_deployment(config, reporter)
    observed = observe(config, deployment, open_frames(config, reporter), reporter)
    similarity = compute_similarities(config, observed, config.search.adapter_specs, reporter)
    losses = compute_rounding_losses(config, observed, reporter)
    return build_problem(config, deployment, similarity, losses)


def print_front(exact: ExactFront, costs: CostModel, reporter: Reporter) -> None:
    """Print one row per plan of the exact front, with its precisions if a plan has any."""
    rows = [
        [p.plan.hash, f"{p.bytes / MEGABYTE:.2f}", percent(1 - p.bytes / costs.unmerged_bytes),
         f"{p.proxy:.3f}", f"{p.worst:.3f}", str(len(p.plan.shares))]
        for p in exact.front
    ]  # fmt: skip
    header = ["plan", "MB", "saved", "proxy", "worst model", "shares"]
    if any(p.plan.precisions for p in exact.front):
        header.append("bytes by precision")
        dtypes = list_names(sorted({facts.dtype for facts in costs.facts.values()}))
        for row, p in zip(rows, exact.front, strict=True):
            row.append(parts_text(stored_bytes_by_precision(p.plan, costs)) or dtypes)
    reporter.table("The exact front", header, rows)


def to_dict(exact: ExactFront, problem: Problem, unmerged_bytes: int) -> dict[str, Any]:
    """Return the content of exact.json."""
    return {
        "problem": problem.hash,
        "unmerged_bytes": unmerged_bytes,
        "space": exact.combinations,
        "looked_at": exact.examined,
        "front": [_plan_to_dict(predicted) for predicted in exact.front],
    }


def load_studied_front(out: Path, problem: Problem) -> list[Point] | None:
    """Return the front in OUT/result.json, or None unless a run into OUT solved this problem."""
    try:
        result = read_record(Result, out / "result.json")
    except BadRecord:
        return None
    if result.study["problem"] != problem.hash:
        return None
    return [(record.bytes, record.proxy) for record in result.front]


def _plan_to_dict(predicted: PredictedPlan) -> dict[str, Any]:
    return {
        "hash": predicted.plan.hash,
        "plan": predicted.plan.to_dict(),
        "bytes": predicted.bytes,
        "proxy": predicted.proxy,
        "worst": predicted.worst,
    }


def _hypervolume(points: Sequence[Point], budget: float) -> float:
    return hypervolume([(size / budget, quality) for size, quality in points], (1.0, 0.0))
