"""The trials of a search as a table: OUT/trials.csv, one row per plan in the order of valuing."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from search.study.objectives import MEGA, UNITS, PlanEvaluator
from search.study.optimize import Explored
from search.utils.files import write_text

TRIALS = "trials.csv"


def save_trials(explored: Explored, valuer: PlanEvaluator, out: Path) -> None:
    """Write the table. What the search made small is there by name, in its unit."""
    extra = [cost for cost in valuer.problem.costs if cost != "bytes"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = [f"{cost}_{UNITS[cost].lower()}" for cost in extra]
    writer.writerow(
        ["trial", "plan", "bytes_mb", "proxy", *costs, "feasible", "hypervolume", "shares"]
    )
    rows = zip(explored.valued, explored.progress, strict=True)
    for number, (valued, area) in enumerate(rows):
        known = dict(zip(valuer.problem.costs, valued.costs, strict=True))
        writer.writerow(
            [number, valued.plan.hash, f"{valued.bytes / MEGA:.6f}", f"{valued.proxy:.6f}",
             *(f"{known[cost]:.6f}" for cost in extra),
             "yes" if valuer.feasible(valued) else "no", f"{area:.6f}", valued.plan]
        )  # fmt: skip
    write_text(out / TRIALS, text.getvalue())
