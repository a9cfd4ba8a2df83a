"""`merge-search exact`: the true front, and how much of it a study has found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.config.run import RunConfig
from search.pipelines.prepare import (
    build_problem,
    load_deployment,
    observe,
    open_frames,
    similarities,
)
from search.results.search_result import Result
from search.study.exact.branch_and_bound import ExactFront, exact_front
from search.study.objectives import Predicted
from search.study.pareto import hypervolume
from search.study.problem import Problem
from search.utils.files import make_folder, write_json
from search.utils.format import MEGABYTE, percent
from search.utils.records import BadRecord, read_record
from search.utils.reporter import Reporter
from spaces.cost import CostModel

FILE = "exact.json"


def measure_exactly(config: RunConfig, reporter: Reporter) -> Path:
    """Find the true front of the config's problem, tell it, and write it to OUT/exact.json.

    Raises:
        TooLarge: the space holds more than can be looked through.
        MergeSearchError: anything else the user can put right.
    """
    out = make_folder(config.out_folder)
    deployment = load_deployment(config, reporter)
    observed = observe(config, deployment, open_frames(config, reporter), reporter)
    similarity = similarities(config, observed, config.search.adapter_specs, reporter)
    problem = build_problem(config, deployment, similarity)
    reporter.step(f"The true front of {problem.encoding.size:,} combinations")
    with reporter.working("bounding"):
        exact = exact_front(problem)
    reporter.say(f"  {len(exact.front)} plans; {exact.examined:,} half decided ones looked at")
    unmerged = CostModel(problem.facts).unmerged_bytes
    tell(exact, unmerged, reporter)
    whole = min(problem.limits.bytes, unmerged)
    found = _found_by_study(out, problem)
    if found is not None:
        share = _area(found, whole) / _area([(p.bytes, p.proxy) for p in exact.front], whole)
        reporter.say(f"The study in {out.name} has found {percent(share)} of its hypervolume.")
    write_json(out / FILE, _data(exact, problem, unmerged))
    return out / FILE


def tell(exact: ExactFront, unmerged: int, reporter: Reporter) -> None:
    """The front as a table."""
    rows = [
        [p.plan.hash, f"{p.bytes / MEGABYTE:.2f}", percent(1 - p.bytes / unmerged),
         f"{p.proxy:.3f}", f"{p.worst:.3f}", str(len(p.plan.shares))]
        for p in exact.front
    ]  # fmt: skip
    header = ["plan", "MB", "saved", "proxy", "worst model", "shares"]
    reporter.table("The true front", header, rows)


def _data(exact: ExactFront, problem: Problem, unmerged: int) -> dict[str, Any]:
    return {
        "problem": problem.hash,
        "unmerged_bytes": unmerged,
        "space": exact.combinations,
        "looked_at": exact.examined,
        "front": [_record(found) for found in exact.front],
    }


def _record(found: Predicted) -> dict[str, Any]:
    return {
        "hash": found.plan.hash,
        "plan": found.plan.to_dict(),
        "bytes": found.bytes,
        "proxy": found.proxy,
        "worst": found.worst,
    }


def _found_by_study(out: Path, problem: Problem) -> list[tuple[int, float]] | None:
    """Bytes and proxy of the front that a run into OUT found for this very problem, if one did."""
    try:
        result = read_record(Result, out / "result.json")
    except BadRecord:
        return None
    if result.study["problem"] != problem.hash:
        return None
    return [(record.bytes, record.proxy) for record in result.front]


def _area(points: list[tuple[int, float]], whole: float) -> float:
    return hypervolume([(held / whole, quality) for held, quality in points], (1.0, 0.0))
