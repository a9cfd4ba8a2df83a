"""The numbers and texts that MLflow shows of the rounds of a watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.evaluation.per_frame import mean_of_available
from search.results.rounds import Decision, Round
from search.utils.format import percent
from search.utils.timing import format_minute

DECISIONS: Mapping[Decision, int] = {
    "failed": -1, "waiting": 0, "unchanged": 1, "searched": 2, "promoted": 3,
}  # fmt: skip
LEGEND = (
    "`decision`: -1 failed, 0 too few new frames, 1 the plan in service still holds, "
    "2 searched again and kept the plan, 3 promoted another plan."
)
NOTED_ROUNDS = 30
"""Rounds in the note at most: MLflow accepts 8,000 characters."""
LONGEST_REASON = 100
"""Characters of a reason in the note at most."""


def round_metrics(ended: Round) -> dict[str, float]:
    """Return one point for every curve; numbers that the round lacks are left out."""
    promotion = ended.promotion
    metrics: dict[str, float | None] = {
        "decision": DECISIONS[ended.decision],
        "new_frames": ended.new_frames,
        "p_value": ended.p_value,
        **{f"p_value/{name}": camera.p_value for name, camera in ended.cameras.items()},
        "fidelity": mean_of_available(ended.fidelity),
        **{f"fidelity/{name}": value for name, value in ended.fidelity.items()},
        "champion_quality": None if promotion is None else promotion.champion_quality,
        "challenger_quality": None if promotion is None else promotion.challenger_quality,
    }
    return {name: float(value) for name, value in metrics.items() if value is not None}


def round_tags(name: str, rounds: Sequence[Round]) -> dict[str, str]:
    """Return the tags of the watch after the last of these rounds."""
    last = rounds[-1]
    return {
        "merge_search.decision": last.decision,
        "merge_search.champion": last.champion or "none",
        "mlflow.note.content": watch_note(name, rounds),
    }


def watch_note(name: str, rounds: Sequence[Round]) -> str:
    """Return the note of the last rounds in Markdown, newest first."""
    last, newest_first = rounds[-1], list(reversed(rounds[-NOTED_ROUNDS:]))
    head = (
        f"**{name}**: round {last.number} ended at {format_minute(last.ended)} UTC: "
        f"{last.decision}. "
        f"In service: {last.champion or 'no plan yet'}."
    )
    columns = {
        "round": [str(ended.number) for ended in newest_first],
        "ended (UTC)": [format_minute(ended.ended) for ended in newest_first],
        "decision": [ended.decision for ended in newest_first],
        "drift p": [
            "-" if ended.p_value is None else f"{ended.p_value:.2g}" for ended in newest_first
        ],
        "fidelity": [percent(mean_of_available(ended.fidelity)) for ended in newest_first],
        "in service": [ended.champion or "-" for ended in newest_first],
        "reason": [_cell(ended.reason) for ended in newest_first],
    }
    lines = [columns.keys(), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{head}\n\n{table}\n\n{LEGEND}\n"


def round_table(rounds: Sequence[Round]) -> dict[str, list[Any]]:
    """Return a table in the format of MLflow's own `log_table`."""
    rows = [
        {
            "round": ended.number,
            "due": ended.due,
            "began": ended.began,
            "ended": ended.ended,
            "decision": ended.decision,
            "reason": ended.reason,
            "new_frames": ended.new_frames,
            "p_value": ended.p_value,
            "fidelity": mean_of_available(ended.fidelity),
            "champion": ended.champion,
            "challenger": None if ended.promotion is None else ended.promotion.challenger,
            "measured_by": None if ended.promotion is None else ended.promotion.by,
            "measured_on": None if ended.promotion is None else ended.promotion.measured_on,
            "verdict": None if ended.promotion is None else ended.promotion.reason,
            "missed": ended.missed,
        }
        for ended in rounds
    ]
    return {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}


def _cell(reason: str) -> str:
    """Return one line without the character that separates cells."""
    line = " ".join(reason.split())
    short = line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"
    return short.replace("|", "¦")
