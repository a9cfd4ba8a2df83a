"""Show the rounds of a watch as a table: `merge-search history`."""

from __future__ import annotations

from collections.abc import Sequence

from search.deploy.champion import CURRENT, ChampionStore
from search.evaluation.per_frame import mean_of_available
from search.results.kept_quality import kept_text, no_baseline_text
from search.results.rounds import PromotionRecord, Round
from search.utils.format import megabytes, percent
from search.utils.reporter import Reporter
from search.utils.timing import format_minute
from search.watch.workspace import Workspace

FIRST_COLUMNS = ["round", "due (UTC)", "new frames", "drift p"]
HEADER = [*FIRST_COLUMNS, "fidelity", "decision", "in service"]


def show_history(rounds: Sequence[Round], workspace: Workspace, reporter: Reporter) -> None:
    """Print the rounds, oldest first, the details of each, and the plan in service."""
    if not rounds:
        reporter.say(f"No rounds yet in {workspace.folder}; start them with merge-search watch")
        return
    reporter.table("Rounds", HEADER, [_row(ended) for ended in rounds])
    reporter.say("")
    for ended in rounds:
        if ended.decision not in ("waiting", "unchanged"):
            reporter.say(f"{ended.number}: {ended.decision}: {ended.reason}")
        for line in details(ended):
            reporter.say(f"{ended.number}:   {line}")
    champions = ChampionStore(workspace.service_folder)
    champion = champions.champion()
    if champion is None:
        reporter.say("No plan is in service.")
        return
    plan = champion.registered_plan
    reporter.say(
        f"In service since {format_minute(champion.since)} UTC: plan {plan.plan}, "
        f"{megabytes(plan.bytes)}, in {champions.folder / CURRENT}"
    )
    precisions = champions.describe_precisions(champion)
    if precisions:
        reporter.say(f"It holds {precisions}.")


def details(ended: Round) -> list[str]:
    """Return the details of a round besides its reason: faults, a promotion, missed rounds."""
    lines = [f"{name}: {camera.fault}" for name, camera in ended.cameras.items() if camera.fault]
    if ended.promotion is not None:
        lines += _promotion_details(ended.promotion)
    if ended.missed:
        lines.append(f"{ended.missed} rounds before it were missed")
    return lines


def _promotion_details(record: PromotionRecord) -> list[str]:
    quality = "quality kept on ground truth" if record.by == "truth" else "fidelity"
    measured_on = f", {record.measured_on}" if record.measured_on else ""
    reason = f" ({no_baseline_text(record.at_chance)})" if record.at_chance else ""
    qualities = (
        f"{quality}{measured_on}: challenger {record.challenger} "
        f"{kept_text(record.challenger_quality, record.at_chance)}, plan in service "
        f"{kept_text(record.champion_quality, record.at_chance)}{reason}"
    )
    decision = "promoted" if record.promoted else "not promoted"
    return [*record.difference, qualities, f"{decision}: {record.reason}"]


def _row(ended: Round) -> list[str]:
    fidelity = percent(mean_of_available(ended.fidelity))
    return [*first_cells(ended), fidelity, ended.decision, ended.champion or "-"]


def first_cells(ended: Round) -> list[str]:
    """Return the number of a round, when it was due, its new frames, and the drift's p value."""
    p_value = "-" if ended.p_value is None else f"{ended.p_value:.2g}"
    return [str(ended.number), format_minute(ended.due), str(ended.new_frames), p_value]
