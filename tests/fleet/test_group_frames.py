"""The frames of a group's search: a few of each window of all its cameras, in one pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import CLASSIFIER, STREET, Weights, load_tiny

from search.data.frames import RenderedScenes, Sampling, folder_frames
from search.fleet.group_frames import sample_windows
from search.statistics.streaming import Moments, PassSettings, accumulate_moments
from search.watch.windows import Window
from spaces.model_facts import collect_facts
from spaces.shares import find_pairs

COUNT = 16


@pytest.fixture
def windows(tmp_path: Path) -> list[Window]:
    """Return a window of each of three cameras."""
    frames = RenderedScenes(STREET, 3 * COUNT)
    made = []
    for number, camera in enumerate(("east", "north", "west")):
        folder = tmp_path / camera
        folder.mkdir()
        for index in range(COUNT):
            picture = Image.fromarray(frames[number * COUNT + index])
            picture.save(folder / f"{index:03d}.png")
        made.append(Window(camera, 7, folder))
    return made


def test_every_window_gives_as_many_frames(windows: list[Window], tmp_path: Path) -> None:
    sample_windows(tmp_path / "sample", windows, 3 * COUNT // 2)
    used = folder_frames(tmp_path / "sample", Sampling())
    expected = [window.frames.paths[k] for window in windows for k in range(0, COUNT, 2)]
    assert [path.read_bytes() for path in used.paths] == [path.read_bytes() for path in expected]


@pytest.mark.parametrize(("frames", "count"), [(1, 3), (3, 3), (24, 24), (1000, 3 * COUNT)])
def test_a_search_uses_at_least_a_frame_of_a_window_and_at_most_all(
    windows: list[Window], tmp_path: Path, frames: int, count: int
) -> None:
    sample_windows(tmp_path / "sample", windows, frames)
    assert len(folder_frames(tmp_path / "sample", Sampling())) == count


def test_a_sample_is_replaced_as_a_whole(windows: list[Window], tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    sample_windows(folder, windows, 24)
    sample_windows(folder, windows[:1], 12)
    assert len(folder_frames(folder, Sampling())) == 12


def test_the_statistics_of_a_group_are_those_of_its_cameras(
    windows: list[Window], tmp_path: Path, weights: Weights
) -> None:
    """Eight frames of each camera are a batch: the batches' sums add up over the cameras."""
    models = load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)})
    facts = collect_facts(models)
    pairs = find_pairs(facts).legal

    def moments(of: list[Window], name: str, count: int) -> Moments:
        sample_windows(tmp_path / name, of, count)
        frames = folder_frames(tmp_path / name, Sampling())
        return accumulate_moments(models, facts, pairs, frames, PassSettings(batch=8))

    group = moments(windows, "group", 24)
    total, *others = [moments([window], f"{window.camera}-alone", 8) for window in windows]
    with torch.inference_mode():
        for other in others:
            total.merge(other)
    assert group.frames == total.frames == 24
    np.testing.assert_allclose(group.hsic, total.hsic, rtol=1e-4, atol=1e-9)
    for grid, rows in group.grids.items():
        for ref, coded in rows.coded.items():
            assert coded.codes.shape == total.grids[grid].coded[ref].codes.shape
