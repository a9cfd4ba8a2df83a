"""Cameras are placed by what their frames look like, and move only if these have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from made_up_camera import MadeUpCamera, map_rows

from search.drift.detection import Drift
from search.drift.frame_features import VIEWS, Description
from search.fleet.clustering import cluster_cameras
from search.fleet.features import joined_descriptions
from search.fleet.placement import Arrival, Change, Fleet, place_cameras
from search.fleet.signature import Scale, Signature
from search.fleet.storage import BadFleet, load_fleet, save_fleet

TOLERANCE = 0.5
CHANGED = Change(Drift(1e-9, 0.05, 1e-12, "appearance", 0.9), 2.1)
SPREAD = 4.0
"""Roughly the standard deviation of a feature of the made-up camera."""


def look(place: float, seed: int = 0, frames: int = 64) -> Description:
    """Return frames of a camera whose features all lie `place` standard deviations from 0."""
    camera = MadeUpCamera(16, seed=3)
    camera._rng = np.random.default_rng(seed)
    unit = camera.frames(frames)
    spread = {view: np.linalg.norm(camera._mix[view], axis=0) for view in VIEWS}
    rows = {view: unit.rows[view] + place * spread[view] for view in VIEWS}
    return Description(unit.models, rows)


def arrival(camera: str, place: float, seed: int, changed: bool = False) -> Arrival:
    return Arrival(camera, Signature.of(look(place, seed)), 1, CHANGED if changed else None)


def three_groups() -> list[Arrival]:
    places = {"day": 0.0, "night": 2.0, "rain": -2.0}
    return [
        arrival(f"{kind}-{number}", place, 100 * k + number)
        for k, (kind, place) in enumerate(places.items())
        for number in range(4)
    ]


def groups_of(fleet: Fleet) -> set[tuple[str, ...]]:
    return {fleet.cameras_of(group) for group in fleet.occupied}


@pytest.fixture(scope="module")
def placed() -> Fleet:
    return place_cameras(Fleet(models="models"), three_groups(), TOLERANCE, 1)


def test_the_number_of_groups_follows_from_the_cameras(placed: Fleet) -> None:
    assert groups_of(placed) == {
        tuple(f"{kind}-{number}" for number in range(4)) for kind in ("day", "night", "rain")
    }
    assert list(placed.groups) == ["group-1", "group-2", "group-3"]
    assert {member.since for member in placed.members.values()} == {1}


def test_one_kind_of_camera_makes_one_group() -> None:
    arrivals = [arrival(f"camera-{k}", 0.0, k) for k in range(9)]
    assert len(place_cameras(Fleet(), arrivals, TOLERANCE, 1).groups) == 1


def test_groups_do_not_depend_on_the_order_of_the_cameras(placed: Fleet) -> None:
    few = [three_groups()[k] for k in (0, 1, 4, 8)]
    fleets = [place_cameras(Fleet(), order, TOLERANCE, 1) for order in permutations(few)]
    assert all(fleet.members == fleets[0].members for fleet in fleets)
    again = place_cameras(Fleet(models="models"), three_groups()[::-1], TOLERANCE, 1)
    assert again.members == placed.members and list(again.groups) == list(placed.groups)


@pytest.mark.parametrize("tolerance", [1e-6, 0.5, 100.0])
def test_cameras_with_the_same_frames_are_in_one_group(tolerance: float) -> None:
    arrivals = [arrival(f"{copy}-{k}", 0.6 * k, k) for k in range(4) for copy in ("one", "other")]
    fleet = place_cameras(Fleet(), arrivals, tolerance, 1)
    for k in range(4):
        assert fleet.members[f"one-{k}"].group == fleet.members[f"other-{k}"].group
    # and so do cameras that arrive later
    later = place_cameras(fleet, [arrival("late", 0.6, 1)], tolerance, 2)
    assert later.members["late"].group == later.members["one-1"].group


def test_a_camera_that_changes_moves_and_its_record_says_why(placed: Fleet) -> None:
    moved = arrival("day-0", 2.0, 999, changed=True)
    fleet = place_cameras(placed, [moved], TOLERANCE, 2)
    member = fleet.members["day-0"]
    assert (member.group, member.since) == (placed.members["night-0"].group, 2)
    before = placed.members["day-0"].group
    assert member.reason.startswith(
        "its frames have changed (2.10 from those before, p = 1e-09): "
    )
    assert f"from {before}" in member.reason and f"from {member.group}" in member.reason
    others = {name: m for name, m in fleet.members.items() if name != "day-0"}
    assert others == {name: m for name, m in placed.members.items() if name != "day-0"}


def test_a_camera_that_resembles_no_group_founds_one(placed: Fleet) -> None:
    fleet = place_cameras(placed, [arrival("day-0", 9.0, 5, changed=True)], TOLERANCE, 2)
    assert fleet.members["day-0"].group == "group-4" and fleet.founded == 4
    assert "no group within 0.5" in fleet.members["day-0"].reason


def test_a_changed_camera_that_still_belongs_to_its_group_stays(placed: Fleet) -> None:
    fleet = place_cameras(placed, [arrival("day-0", 0.3, 6, changed=True)], TOLERANCE, 2)
    assert fleet.members["day-0"] == replace(placed.members["day-0"], look=1, window=1)
    assert not same_signatures(
        {"day-0": fleet.signatures["day-0"]}, {"day-0": placed.signatures["day-0"]}
    )


def test_a_camera_leaves_a_near_group_only_for_one_that_is_clearly_nearer() -> None:
    sides = {"a": 0.0, "b": 0.9}
    pairs = [arrival(f"{side}-{k}", x, 10 + k) for side, x in sides.items() for k in (0, 1)]
    fleet = place_cameras(Fleet(), pairs, 0.6, 1)
    home, other = fleet.members["a-0"].group, fleet.members["b-0"].group
    assert home != other
    for place, group in [(0.5, home), (0.55, home), (0.75, other)]:
        moved = place_cameras(fleet, [arrival("a-0", place, 77, changed=True)], 0.6, 2)
        assert moved.members["a-0"].group == group, place


def test_a_group_that_all_have_left_rests_and_takes_them_back(placed: Fleet) -> None:
    names = [f"day-{k}" for k in range(4)]
    before = placed.members["day-0"].group
    dark = place_cameras(
        placed, [arrival(name, 2.0, 50 + k, True) for k, name in enumerate(names)], TOLERANCE, 2
    )
    assert before not in dark.occupied and before in dark.groups
    assert dark.groups[before].views["content"].mean.tolist() == (
        placed.groups[before].views["content"].mean.tolist()
    )
    morning = place_cameras(
        dark, [arrival(name, 0.0, 70 + k, True) for k, name in enumerate(names)], TOLERANCE, 3
    )
    assert groups_of(morning) == groups_of(placed) and morning.founded == placed.founded


@pytest.mark.parametrize(
    ("p_value", "distance", "noticed"),
    [(0.5, 0.1, False), (0.01, 0.1, True), (0.5, 0.6, True), (0.05, 0.0, True)],
)
def test_a_change_is_noticed_by_the_drift_test_or_by_the_distance(
    p_value: float, distance: float, noticed: bool
) -> None:
    change = Change(Drift(p_value, 0.05, 1e-12, "content", 0.4), distance)
    assert change.is_noticed(TOLERANCE) == noticed


def test_a_camera_that_the_config_no_longer_has_leaves_the_fleet(placed: Fleet) -> None:
    fleet = placed.without_others(["day-0", "night-1", "new"])
    assert set(fleet.members) == set(fleet.signatures) == {"day-0", "night-1"}


# Distances


def test_the_distance_is_that_of_a_slow_twin() -> None:
    descriptions = [look(0.0, 1), look(0.7, 2), look(-1.0, 3)]
    signatures = [Signature.of(description) for description in descriptions]
    scale = Scale.of(signatures)
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        expected = slow_distance(descriptions, signatures, a, b)
        assert scale.distance(signatures[a], signatures[b]) == pytest.approx(expected)
        assert scale.distance(signatures[b], signatures[a]) == pytest.approx(expected)


def slow_distance(
    descriptions: Sequence[Description], signatures: Sequence[Signature], a: int, b: int
) -> float:
    by_view = []
    for view in VIEWS:
        squares = []
        for feature in range(descriptions[0].rows[view].shape[1]):
            columns = [description.rows[view][:, feature] for description in descriptions]
            spread = sum(np.var(column, ddof=1) for column in columns) / len(columns)
            chance = sum(signatures[k].views[view].error[feature] for k in (a, b))
            squares.append(((columns[a].mean() - columns[b].mean()) ** 2 - chance) / spread)
        by_view.append(float(np.sqrt(max(0.0, float(np.mean(squares))))))
    return float(max(by_view))


def test_two_windows_of_one_camera_lie_nearly_together_however_short_they_are() -> None:
    for frames in (32, 256):
        signatures = [Signature.of(look(0.0, seed, frames)) for seed in range(12)]
        scale = Scale.of(signatures)
        distances = [scale.distance(signatures[0], other) for other in signatures[1:]]
        assert float(np.median(distances)) < 0.2


def test_features_that_do_not_vary_count_for_nothing() -> None:
    frozen = map_rows(look(0.0, 1), lambda rows: np.column_stack((rows, np.full(len(rows), 7.0))))
    other = map_rows(look(0.0, 2), lambda rows: np.column_stack((rows, np.full(len(rows), 8.0))))
    one, two = Signature.of(frozen), Signature.of(other)
    assert Scale.of([one, two]).distance(one, two) < 0.5


def test_clusters_are_cut_where_their_mean_distance_reaches_the_tolerance() -> None:
    signatures = {f"{k}": Signature.of(look(0.4 * k, k, 512)) for k in range(3)}
    scale = Scale.of(signatures.values())
    assert len(cluster_cameras(signatures, scale, 0.2)) == 3
    assert cluster_cameras(signatures, scale, 1.0) == [["0", "1", "2"]]
    assert cluster_cameras({}, scale, 1.0) == []
    assert cluster_cameras({"0": signatures["0"]}, scale, 1.0) == [["0"]]


def test_joined_descriptions_have_the_frames_of_all() -> None:
    one, other = look(0.0, 1, 8), look(1.0, 2, 9)
    joined = joined_descriptions([one, other])
    assert len(joined) == 17
    for view in VIEWS:
        assert (joined.rows[view] == np.concatenate((one.rows[view], other.rows[view]))).all()


# The file


def test_a_fleet_is_read_as_it_was_written(placed: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "fleet.safetensors"
    assert load_fleet(file) == Fleet()
    save_fleet(file, placed)
    loaded = load_fleet(file)
    assert (loaded.round, loaded.models, loaded.founded) == (1, "models", 3)
    assert loaded.members == placed.members and list(loaded.groups) == list(placed.groups)
    for one, other in [
        (loaded.signatures, placed.signatures), (loaded.groups, placed.groups)
    ]:  # fmt: skip
        assert same_signatures(one, other)


def same_signatures(one: Mapping[str, Signature], other: Mapping[str, Signature]) -> bool:
    return set(one) == set(other) and all(
        (getattr(one[name].views[view], field) == getattr(other[name].views[view], field)).all()
        for name in one
        for view in VIEWS
        for field in ("mean", "variance", "error")
    )


@pytest.mark.parametrize("content", [b"", b"x" * 40])
def test_a_damaged_file_is_refused_with_a_remedy(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "fleet.safetensors"
    file.write_bytes(content)
    with pytest.raises(BadFleet, match="delete it, and the cameras are grouped anew"):
        load_fleet(file)
