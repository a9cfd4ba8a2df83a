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
    print(output)
