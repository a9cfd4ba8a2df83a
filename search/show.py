"""A plan told to a person."""

from __future__ import annotations

import json
from pathlib import Path

from search.console import Reporter, megabytes, percent
from search.result import CandidateRecord, PlanRecord, Result
from spaces.errors import BadPlan
from spaces.plan import SharePlan


def show_plan(file: Path, reporter: Reporter) -> None:
    """Print a plan file; with the result it belongs to, also its costs and verification.

    Raises:
        BadPlan: the file cannot be read or is no plan.
    """
    plan = read_plan(file)
    reporter.say(f"plan {plan.hash}: {len(plan.shares)} shares")
    rows = [[str(s.recipient), str(s.donor), str(s.adapter)] for s in plan.shares]
    reporter.table("Shares", ["recipient takes its representation", "from donor", "adapter"], rows)
    record = _record(file, plan)
    if record is None:
        return
    reporter.say(
        f"holds {megabytes(record.bytes)}, {record.saved_pct:.1f}% less than unmerged; "
        f"{record.macs / 1e6:,.0f} M multiply-accumulates per frame; proxy {record.proxy:.3f}"
    )
    if isinstance(record, CandidateRecord):
        for name, scores in record.accuracy.items():
            told = ", ".join(f"{score} {value:.3f}" for score, value in scores.items())
            reporter.say(f"verified {name}: {told}")
        reporter.say(f"quality kept: {percent(record.quality_kept)}")


def read_plan(file: Path) -> SharePlan:
    try:
        return SharePlan.from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadPlan(f"plan {file}: cannot be read ({error})") from error
    except BadPlan as error:
        raise BadPlan(f"plan {file}: {error}") from error


def _record(file: Path, plan: SharePlan) -> PlanRecord | None:
    """What the result beside the plan's folder says of it."""
    path = file.resolve().parent.parent / "result.json"
    if not path.is_file():
        return None
    result = Result.from_dict(json.loads(path.read_text(encoding="utf-8")))
    known: list[PlanRecord] = [*result.candidates, *result.front]
    return next((record for record in known if record.hash == plan.hash), None)
