"""What a watch keeps of what it has seen: references that grow, each window once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from made_up_camera import Camera, changed
from PIL import Image
from tiny import Weights, write_config
from watched import WINDOW, watched_data

from search.config.loading import load_config
from search.drift.detection import compare
from search.drift.frame_features import Description
from search.drift.reference import Reference
from search.drift.reference_storage import load
from search.watch.inspection import Inspection, Likeness, take_up
from search.watch.workspace import Window, Workspace
from spaces.deployment import Deployment

BASE = "base-0123"


@pytest.fixture
def post(weights: Weights, tmp_path: Path) -> Workspace:
    return Workspace(load_config(write_config(tmp_path, watched_data(weights))))


@pytest.fixture
def camera() -> Camera:
    return Camera(20)


def window(post: Workspace, camera: str, number: int) -> Window:
    folder = post.folder / "cameras" / camera / f"{number:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(WINDOW):
        Image.fromarray(np.full((2, 2, 3), k, np.uint8)).save(folder / f"{k:02d}.png")
    return Window(camera, number, folder)


def seen_by(
    cameras: Mapping[str, Description], post: Workspace, reference: Reference, windows: int = 1
) -> Inspection:
    """All cameras beside the same part of the last search."""
    new = [window(post, name, n + 1) for name in cameras for n in range(windows)]
    nearest = {
        name: Likeness(BASE, reference, compare(reference, seen, comparisons=len(cameras)))
        for name, seen in cameras.items()
    }
    return Inspection(Deployment({}, {}, None), new, cameras, nearest, None)  # type: ignore[arg-type]


def test_cameras_that_resemble_the_same_part_all_make_it_larger(
    post: Workspace, camera: Camera
) -> None:
    reference = Reference.of(camera.frames(60))
    seen = {name: camera.frames(WINDOW) for name in ("gate", "yard")}
    take_up(post, seen_by(seen, post, reference))
    found = load(post.reference(BASE))
    wanted = reference.grown("g", seen["gate"]).grown("y", seen["yard"])
    assert found.taken_up == ("gate-00000001", "yard-00000001")
    for view, sample in found.samples.items():
        np.testing.assert_array_equal(sample.scores, wanted.samples[view].scores)


def test_windows_of_one_camera_are_taken_up_one_by_one(post: Workspace, camera: Camera) -> None:
    reference, seen = Reference.of(camera.frames(60)), camera.frames(2 * WINDOW)
    take_up(post, seen_by({"gate": seen}, post, reference, windows=2))
    found = load(post.reference(BASE))
    assert found.taken_up == ("gate-00000001", "gate-00000002")
    take_up(post, seen_by({"gate": seen}, post, found, windows=2))  # the round is done again
    assert load(post.reference(BASE)).taken_up == found.taken_up


def test_neither_what_has_changed_nor_a_part_of_a_search_is_taken_up(
    post: Workspace, camera: Camera
) -> None:
    reference, same = Reference.of(camera.frames(120)), camera.frames(WINDOW)
    other = changed(camera.frames(WINDOW), lambda rows: rows + 1e3)
    take_up(post, seen_by({"gate": other}, post, reference))
    sight = seen_by({"gate": same}, post, reference)
    take_up(post, sight, sight.windows)
    assert not post.reference(BASE).exists()
    take_up(post, sight)
    assert load(post.reference(BASE)).taken_up == ("gate-00000001",)
