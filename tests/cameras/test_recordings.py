"""Stored frames of one camera: windows, the cursor, and pauses after faults."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from camera_files import image_level, recordings_in, stored_frames, taken
from hypothesis import given
from hypothesis import strategies as st
from tiny import STREET

from search.cameras.deduplication import grey_picture, near_identical
from search.cameras.polling import poll_cameras
from search.cameras.recordings import BadRecordings, Recordings
from search.cameras.sources import CameraFrame, SceneCamera
from search.data.images import read_image
from search.data.synthetic.scenes import render
from search.utils.files import CannotWrite

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def sorted_files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_frames_are_stored_in_order_until_they_fill_a_window(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path)
    assert recordings.close_window() is None and recordings.window_numbers() == []
    assert recordings.cursor == {}
    assert [recordings.add(taken(level)) for level in (0, 40, 80)] == [True] * 3
    assert recordings.waiting == 3 and recordings.close_window() == 1 and recordings.waiting == 0
    recordings.add(taken(120))
    assert recordings.close_window() == 2 and recordings.close_window() is None
    assert recordings.window_numbers() == [1, 2]
    assert [image_level(path) for path in sorted_files(recordings.window_folder(1))] == [0, 40, 80]
    assert (
        sorted_files(tmp_path / "windows/00000002")[0].name == "20260504T120000.250-00000004.jpg"
    )
    assert Recordings(tmp_path).cursor == {"at": 120}


def test_file_names_sort_by_time_then_by_number(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path)
    hours = ("11:00:00.000Z", "11:00:00.000Z", "14:00:00+02:00", "12:00:00.001Z")
    for k, hour in enumerate(hours):
        recordings.add(taken(40 * k, f"2026-05-04T{hour}"))
    assert [image_level(path) for path in sorted_files(tmp_path / "open")] == [0, 40, 80, 120]


def test_a_near_identical_frame_moves_the_cursor_but_is_not_stored(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path)
    assert [recordings.add(taken(level)) for level in (100, 104, 108, 112, 104)] == [
        True, False, False, True, False,
    ]  # fmt: skip
    assert recordings.waiting == 2 and Recordings(tmp_path).cursor == {"at": 104}


@pytest.mark.parametrize("closed", [False, True])
def test_another_process_knows_the_last_stored_frame(tmp_path: Path, closed: bool) -> None:
    recordings = Recordings(tmp_path)
    recordings.add(taken(100))
    if closed:
        recordings.close_window()
    again = Recordings(tmp_path)
    assert not again.add(taken(103)) and again.add(taken(150))
    newest = max(stored_frames(again, tmp_path), key=lambda path: path.name)
    assert newest.name.endswith("-00000002.jpg"), "numbering continues"


def test_a_stored_frame_differs_only_by_jpeg_compression(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path)
    frame = render(STREET, 0).image
    recordings.add(CameraFrame(frame, NOW.isoformat(), {}))
    again = read_image(sorted_files(tmp_path / "open")[0])
    assert again.shape == frame.shape
    assert np.abs(again.astype(int) - frame).mean() < 4
    assert near_identical(grey_picture(again), grey_picture(frame))


def test_pruning_removes_unneeded_windows_but_never_the_newest(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path)
    for k in range(5):
        recordings.add(taken(40 * k))
        recordings.close_window()
    (tmp_path / "windows/.00000009").mkdir()  # of a process killed while pruning
    recordings.prune([2])
    assert recordings.window_numbers() == [2, 5]
    assert sorted(os.listdir(tmp_path / "windows")) == ["00000002", "00000005"]
    recordings.prune([])
    recordings.add(taken(250))
    assert recordings.close_window() == 6 and recordings.window_numbers() == [5, 6]


def test_a_leftover_of_a_killed_process_does_not_count_as_a_frame(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path)
    recordings.add(taken(0))
    (tmp_path / "open/.20260504T120000.250-00000002.jpg.77.part").write_bytes(b"half")
    assert recordings.waiting == 1 and recordings.close_window() == 1
    assert len(os.listdir(recordings.window_folder(1))) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"cursor": {}}'])
def test_an_unreadable_state_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "camera.json").write_text(text)
    with pytest.raises(BadRecordings, match=r"camera\.json: .*delete the file"):
        Recordings(tmp_path)


def test_an_unwritable_folder_is_not_a_fault_of_the_camera(tmp_path: Path) -> None:
    recordings = recordings_in(tmp_path, "a")
    (tmp_path / "a").touch()
    with pytest.raises(CannotWrite):
        recordings["a"].record_fault(NOW)
    with pytest.raises(CannotWrite):
        poll_cameras({"a": SceneCamera(STREET, 2)}, recordings, 2, NOW)


# Pauses after faults


def test_pauses_double_from_half_a_minute_to_an_hour(tmp_path: Path) -> None:
    recordings, now = Recordings(tmp_path), NOW
    assert recordings.may_poll(now)
    for pause in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        recordings.record_fault(now)
        again = Recordings(tmp_path)
        assert not again.may_poll(now + timedelta(seconds=pause - 0.001))
        now += timedelta(seconds=pause)
        assert again.may_poll(now)
    recordings.clear_fault()
    assert Recordings(tmp_path).may_poll(NOW)
    recordings.record_fault(NOW)
    assert Recordings(tmp_path).may_poll(NOW + timedelta(seconds=30)), "the first pause again"


@given(st.integers(1, 3000), st.integers(-10_000, 10_000))
def test_no_pause_is_longer_than_an_hour_wherever_the_clock_is_set(
    shared_folder: Path, faults: int, offset: int
) -> None:
    state = {"cursor": {}, "faults": faults, "not_before": None}
    (shared_folder / "camera.json").write_text(json.dumps(state))
    recordings = Recordings(shared_folder)
    recordings.record_fault(NOW)
    later = NOW + timedelta(seconds=offset)
    assert recordings.may_poll(later) or recordings.may_poll(later + timedelta(hours=1))


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")
