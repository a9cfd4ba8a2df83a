"""Show the rounds of a fleet, and which camera holds which plan: `merge-search history`."""

from __future__ import annotations

from collections.abc import Sequence

from search.config.run import RunConfig
from search.fleet.fleet_round import fleet_details
from search.fleet.group_files import GROUPS_FOLDER, LINKS_FOLDER, group_champions
from search.fleet.placement import Fleet
from search.fleet.regroup import fleet_file
from search.fleet.storage import load_fleet
from search.results.rounds import Round
from search.utils.format import megabytes
from search.utils.reporter import Reporter
from search.utils.timing import format_minute
from search.watch.history_table import FIRST_COLUMNS, first_cells
from search.watch.workspace import Workspace

ROUNDS_HEADER = [*FIRST_COLUMNS, "decision", "cameras and groups"]
GROUPS_HEADER = ["group", "cameras", "plan in service", "size", "since (UTC)"]
CAMERAS_HEADER = ["camera", "group", "since round", "because of"]


def show_fleet(config: RunConfig, rounds: Sequence[Round], reporter: Reporter) -> None:
    """Print the rounds, oldest first, the details of each, and the groups and cameras now.

    Raises:
        BadFleet, DamagedChampion: a file of the fleet cannot be read.
    """
    workspace = Workspace(config.out_folder)
    if not rounds:
        reporter.say(f"No rounds yet in {workspace.folder}; start them with merge-search watch")
        return
    reporter.table("Rounds", ROUNDS_HEADER, [_round_row(ended) for ended in rounds])
    reporter.say("")
    for ended in rounds:
        for line in fleet_details(ended):
            reporter.say(f"{ended.number}: {line}")
    fleet = load_fleet(fleet_file(workspace))
    groups = [_group_row(config, fleet, group) for group in fleet.groups]
    reporter.table("Groups", GROUPS_HEADER, groups)
    cameras = [
        [name, member.group, str(member.since), member.reason]
        for name, member in fleet.members.items()
    ]
    reporter.table("Cameras", CAMERAS_HEADER, cameras)
    reporter.say(
        f"The bundle of a camera is {config.out_folder / LINKS_FOLDER}/CAMERA; the searches of a "
        f"group are in {config.out_folder / GROUPS_FOLDER}/GROUP"
    )


def _round_row(ended: Round) -> list[str]:
    return [*first_cells(ended), ended.decision, ended.reason]


def _group_row(config: RunConfig, fleet: Fleet, group: str) -> list[str]:
    """Return the row of a group; one without cameras rests until some return to it."""
    cameras, champion = fleet.cameras_of(group), group_champions(config, group).champion()
    count = str(len(cameras)) if cameras else "none, rests"
    if champion is None:
        return [group, count, "-", "-", "-"]
    plan = champion.registered_plan
    return [group, count, plan.plan, megabytes(plan.bytes), format_minute(champion.since)]
