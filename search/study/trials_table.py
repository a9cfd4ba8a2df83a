"""The trials of a search as a table: OUT/trials.csv, one row per plan in order of evaluation."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from search.study.objectives import MEGA, PlanEvaluator
from search.study.optimize import StudyResult
from search.utils.files import write_text

TRIALS = "trials.csv"


def write_trials(study: StudyResult, evaluator: PlanEvaluator, out: Path) -> None:
    """Write the table, with a column for each further cost that the search minimised.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    extra = [cost for cost in evaluator.problem.costs if cost != "bytes"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    units = {cost: unit.lower() for cost, unit in evaluator.cost_units.items()}
    costs = [f"{cost}_{units[cost].replace('/s', '_per_second')}" for cost in extra]
    writer.writerow(
        ["trial", "plan", "bytes_mb", "proxy", *costs, "feasible", "hypervolume", "shares"]
    )
    rows = zip(study.evaluated, study.hypervolumes, strict=True)
    for number, (plan, hypervolume) in enumerate(rows):
        cost_by_name = dict(zip(evaluator.problem.costs, plan.costs, strict=True))
        writer.writerow(
            [number, plan.plan.hash, f"{plan.bytes / MEGA:.6f}", f"{plan.proxy:.6f}",
             *(f"{cost_by_name[cost]:.6f}" for cost in extra),
             "yes" if evaluator.is_feasible(plan) else "no", f"{hypervolume:.6f}", plan.plan]
        )  # fmt: skip
    write_text(out / TRIALS, text.getvalue())
