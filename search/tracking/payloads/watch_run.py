"""What is told to MLflow of the rounds of a watch, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.evaluation.per_frame import mean_known
from search.results.rounds import Decision, Round
from search.utils.format import percent
from search.utils.timing import format_minute

DECISIONS: Mapping[Decision, int] = {
    "failed": -1, "waiting": 0, "unchanged": 1, "searched": 2, "promoted": 3,
}  # fmt: skip
LEGEND = (
    "`decision`: -1 failed, 0 too few new frames to tell, 1 the plan in service still holds, "
    "2 searched again and it stays, 3 another plan took its place."
)
NOTED = 30
"""Rounds in the note, of which MLflow takes 8,000 characters."""
LONGEST_REASON = 100


def round_metrics(ended: Round) -> dict[str, float]:
    """One point of every curve; what is not known in this round is not logged."""
    verdict = ended.verdict
    known: dict[str, float | None] = {
        "decision": DECISIONS[ended.decision],
        "new_frames": ended.new_frames,
        "p_value": ended.p_value,
        **{f"p_value/{name}": camera.p_value for name, camera in ended.cameras.items()},
        "fidelity": mean_known(ended.fidelity),
        **{f"fidelity/{name}": value for name, value in ended.fidelity.items()},
        "champion_quality": None if verdict is None else verdict.champion_quality,
        "challenger_quality": None if verdict is None else verdict.challenger_quality,
    }
    return {name: float(value) for name, value in known.items() if value is not None}


def round_tags(name: str, rounds: Sequence[Round]) -> dict[str, str]:
    """Of the watch as it stands after the last of these rounds."""
    last = rounds[-1]
    return {
        "merge_search.decision": last.decision,
        "merge_search.champion": last.champion or "none",
        "mlflow.note.content": note(name, rounds),
    }


def note(name: str, rounds: Sequence[Round]) -> str:
    """The last rounds in Markdown, newest first."""
    last, shown = rounds[-1], list(reversed(rounds[-NOTED:]))
    head = (
        f"**{name}**: round {last.number} ended at {format_minute(last.ended)} UTC: "
        f"{last.decision}. "
        f"In service: {last.champion or 'no plan yet'}."
    )
    columns = {
        "round": [str(known.number) for known in shown],
        "ended (UTC)": [format_minute(known.ended) for known in shown],
        "decision": [known.decision for known in shown],
        "drift p": ["-" if known.p_value is None else f"{known.p_value:.2g}" for known in shown],
        "fidelity": [percent(mean_known(known.fidelity)) for known in shown],
        "in service": [known.champion or "-" for known in shown],
        "reason": [_cell(known.reason) for known in shown],
    }
    lines = [columns.keys(), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{head}\n\n{table}\n\n{LEGEND}\n"


def round_table(rounds: Sequence[Round]) -> dict[str, list[Any]]:
    """As MLflow's own `log_table` writes one."""
    rows = [
        {
            "round": known.number,
            "due": known.due,
            "began": known.began,
            "ended": known.ended,
            "decision": known.decision,
            "reason": known.reason,
            "new_frames": known.new_frames,
            "p_value": known.p_value,
            "fidelity": mean_known(known.fidelity),
            "champion": known.champion,
            "challenger": None if known.verdict is None else known.verdict.challenger,
            "measured_by": None if known.verdict is None else known.verdict.by,
            "measured_on": None if known.verdict is None else known.verdict.measured_on,
            "verdict": None if known.verdict is None else known.verdict.reason,
            "missed": known.missed,
        }
        for known in rounds
    ]
    return {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}


def _cell(reason: str) -> str:
    """One line, without what would end the cell."""
    line = " ".join(reason.split())
    short = line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"
    return short.replace("|", "¦")
