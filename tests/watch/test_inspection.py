"""References of a watch grow by the windows that resemble them, each window once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from made_up_camera import MadeUpCamera, map_rows
from PIL import Image
from watched import WINDOW

from search.drift.detection import compare
from search.drift.frame_features import Description
from search.drift.reference import Reference
from search.drift.reference_storage import load
from search.watch.inspection import Inspection, NearestPart
from search.watch.references import extend_references
from search.watch.windows import Window, join_frames
from search.watch.workspace import Workspace
from spaces.deployment import Deployment

BASE = "base-0123"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def camera() -> MadeUpCamera:
    return MadeUpCamera(20)


def window(workspace: Workspace, camera: str, number: int) -> Window:
    folder = workspace.folder / "cameras" / camera / f"{number:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(WINDOW):
        Image.fromarray(np.full((2, 2, 3), k, np.uint8)).save(folder / f"{k:02d}.png")
    return Window(camera, number, folder)


def inspected(
    workspace: Workspace,
    reference: Reference,
    features_by_camera: Mapping[str, Description],
    windows: int = 1,
) -> Inspection:
    """Return an inspection in which all cameras resemble the same part of the last search."""
    new = [window(workspace, name, n + 1) for name in features_by_camera for n in range(windows)]
    count = len(features_by_camera)
    nearest = {
        name: NearestPart(BASE, reference, compare(reference, features, comparisons=count))
        for name, features in features_by_camera.items()
    }
    deployment = Deployment({}, {}, None)  # type: ignore[arg-type]
    frames = join_frames(new)
    return Inspection(deployment, new, frames, features_by_camera, nearest, None)


def test_cameras_that_resemble_the_same_part_all_extend_its_reference(
    workspace: Workspace, camera: MadeUpCamera
) -> None:
    reference = Reference.of(camera.frames(60))
    features = {name: camera.frames(WINDOW) for name in ("gate", "yard")}
    extend_references(workspace, inspected(workspace, reference, features))
    stored = load(workspace.reference_file(BASE))
    expected = reference.grown("g", features["gate"]).grown("y", features["yard"])
    assert stored.taken_up == ("gate-00000001", "yard-00000001")
    for view, sample in stored.samples.items():
        np.testing.assert_array_equal(sample.scores, expected.samples[view].scores)


def test_each_window_of_a_camera_extends_a_reference_once(
    workspace: Workspace, camera: MadeUpCamera
) -> None:
    reference, features = Reference.of(camera.frames(60)), {"gate": camera.frames(2 * WINDOW)}
    extend_references(workspace, inspected(workspace, reference, features, windows=2))
    stored = load(workspace.reference_file(BASE))
    assert stored.taken_up == ("gate-00000001", "gate-00000002")
    # the round is repeated
    extend_references(workspace, inspected(workspace, stored, features, windows=2))
    assert load(workspace.reference_file(BASE)).taken_up == stored.taken_up


def test_neither_changed_cameras_nor_windows_of_a_search_extend_references(
    workspace: Workspace, camera: MadeUpCamera
) -> None:
    reference, same = Reference.of(camera.frames(120)), camera.frames(WINDOW)
    other = map_rows(camera.frames(WINDOW), lambda rows: rows + 1e3)
    extend_references(workspace, inspected(workspace, reference, {"gate": other}))
    inspection = inspected(workspace, reference, {"gate": same})
    extend_references(workspace, inspection, inspection.windows)
    assert not workspace.reference_file(BASE).exists()
    extend_references(workspace, inspection)
    assert load(workspace.reference_file(BASE)).taken_up == ("gate-00000001",)
