"""Rounds of a fleet on real networks, pictures, processes and stores."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from commands import StartCommand
from fleets import DAY, NIGHT, WINDOW, WatchedFleet, fleet_data
from process_killer import kill_in
from tiny import Weights

CAMERAS = ("east", "north", "south", "west")


@pytest.fixture
def fleet(weights: Weights, tmp_path: Path) -> WatchedFleet:
    return WatchedFleet.at(tmp_path / "fleet", fleet_data(weights, CAMERAS))


def test_each_group_has_a_plan_and_a_camera_that_changes_moves(fleet: WatchedFleet) -> None:
    code, output = fleet.once()
    assert code == 0 and "east has most, 0 of 32" in output, output

    for camera, look in zip(CAMERAS, (DAY, DAY, NIGHT, NIGHT), strict=True):
        fleet.deliver(camera, look)
    code, output = fleet.once()
    assert code == 11, output
    assert "4 cameras in 2 groups: group-1 has 2, group-2 has 2" in output
    assert fleet.fleet.cameras_of("group-1") == ("east", "north")
    first = fleet.rounds[-1]
    assert {name: c.group for name, c in first.cameras.items()} == {
        "east": "group-1", "north": "group-1", "south": "group-2", "west": "group-2",
    }  # fmt: skip
    for name, group in first.groups.items():
        assert group.decision == "promoted"
        assert {first.cameras[c].group_plan for c in fleet.fleet.cameras_of(name)} == {
            group.champion
        }
    day, night = fleet.current("east"), fleet.current("south")
    assert fleet.current("north") == day and fleet.current("west") == night
    fleet.deliver("east", NIGHT)
    fleet.deliver("north", DAY)
    code, output = fleet.once()
    last = fleet.rounds[-1]
    assert last.decision != "failed", output
    east = last.cameras["east"]
    assert east.group == "group-2" and east.group_plan == last.groups["group-2"].champion
    assert east.moved.startswith("its frames have changed (") and "from group-1, " in east.moved
    assert "east is now in group-2: its frames have changed" in output
    assert fleet.current("east") == fleet.current("south") and fleet.current("north") == day
    for name in ("north", "south", "west"):
        assert last.cameras[name].group == first.cameras[name].group
        assert last.cameras[name].moved == ""
    assert last.groups["group-1"].decision == "unchanged"

    code, output = fleet.call("history")
    assert code == 0, output
    for text in ("Cameras", "group-2", east.group_plan, "its first frames", "have changed ("):
        assert text in output
    assert [record["number"] for record in fleet.listed()] == [1, 2, 3]


@pytest.mark.durability
def test_a_round_that_is_killed_goes_on_where_it_was(
    weights: Weights, tmp_path: Path, start: StartCommand
) -> None:
    fleet = WatchedFleet.at(tmp_path / "fleet", fleet_data(weights, ("day", "night")))
    fleet.deliver("day", DAY)
    fleet.deliver("night", NIGHT)
    for function in (
        "search.fleet.fleet_round.do_group_round",  # after the placement
        "search.fleet.group_round.RoundHistory.write",  # after the search of the first group
        "search.fleet.fleet_round.link_cameras",  # after the rounds of both groups
    ):
        victim = start("watch", fleet.config, "--once", prepare=kill_in(function))
        assert victim.exit_code() == -signal.SIGKILL, victim.output
        assert fleet.rounds == [] and fleet.fleet.round == 1
        placed = fleet.fleet.members
        if fleet.delivered["day"] == WINDOW:
            fleet.deliver("day", NIGHT)  # what arrives in between waits for the next round
    searched = {group: fleet.group_rounds(group) for group in ("group-1", "group-2")}
    assert all(len(rounds) == 1 for rounds in searched.values())

    assert fleet.once()[0] == 11
    assert fleet.fleet.members == placed
    assert {group: fleet.group_rounds(group) for group in searched} == searched
    (ended,) = fleet.rounds
    assert ended.decision == "promoted" and ended.cameras["day"].group == "group-1"
    for group, (own,) in searched.items():
        assert ended.groups[group].champion == own.champion
        assert own.number == 1 and own.decision == "promoted"

    assert fleet.once()[0] in (0, 10, 11)
    by_night = fleet.rounds[-1].cameras["day"]
    assert by_night.group == "group-2" and fleet.current("day") == fleet.current("night")
    assert fleet.fleet.occupied == ("group-2",) and "group-1" in fleet.fleet.groups

    fleet.deliver("day", DAY)  # in the morning it returns to the plan of the day, unsearched
    code, output = fleet.once()
    assert code == 0, output
    by_day = fleet.rounds[-1].cameras["day"]
    assert by_day.group == "group-1" and by_day.group_plan == ended.cameras["day"].group_plan
    assert [own.decision for own in fleet.group_rounds("group-1")] == ["promoted", "unchanged"]
