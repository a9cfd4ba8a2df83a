"""Rounds of a fleet on real networks, pictures, processes and stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleets import DAY, NIGHT, WatchedFleet, fleet_data
from tiny import Weights

CAMERAS = ("east", "north", "south", "west")


@pytest.fixture
def fleet(weights: Weights, tmp_path: Path) -> WatchedFleet:
    return WatchedFleet.at(tmp_path / "fleet", fleet_data(weights, CAMERAS))


def test_each_group_has_a_plan_and_a_camera_that_changes_moves(fleet: WatchedFleet) -> None:
    code, output = fleet.once()
    assert code == 0 and "no camera has 32; east has most, 0" in output, output

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
    assert east.group == "group-2" and east.group_plan == fleet.rounds[-1].groups["group-2"].champion
    assert east.moved.startswith("its frames have changed (p = ") and "from group-1, " in east.moved
    assert "east is now in group-2: its frames have changed" in output
    assert fleet.current("east") == fleet.current("south") and fleet.current("north") == day
    for name in ("north", "south", "west"):
        assert last.cameras[name].group == first.cameras[name].group
        assert last.cameras[name].moved == ""
    assert last.groups["group-1"].decision == "unchanged"

    code, output = fleet.call("history")
    assert code == 0, output
    for text in ("Cameras", "group-2", east.group_plan, "its first frames", "have changed (p ="):
        assert text in output
    assert [record["number"] for record in fleet.listed()] == [1, 2, 3]
