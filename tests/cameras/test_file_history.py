"""Files of a camera come exactly once, whatever their times and names do."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from camera_files import (
    LONG_AGO,
    ManualClock,
    frames_after,
    levels,
    poll,
    steady_times,
    write_image,
    write_video,
)

from search.cameras.file_history import (
    FORGOTTEN_AT_A_TIME,
    MAX_FILES,
    MAX_OUTDATED,
    SEPARATOR,
    FileHistory,
)
from search.cameras.files import SETTLING_TIME, FileStamp
from search.cameras.sources import CameraFrame, Cursor, FolderCamera, VideoCamera


def drained(camera: FolderCamera, cursor: Cursor) -> tuple[list[int], Cursor]:
    """Return the levels of all new frames, and the cursor after them."""
    frames = frames_after(camera, cursor)
    return levels(frames), frames[-1].cursor if frames else cursor


def test_images_of_one_time_that_arrive_one_by_one_are_all_taken(tmp_path: Path) -> None:
    """As archives and checkouts leave them."""
    camera, cursor = FolderCamera(tmp_path, 0), Cursor()
    for level, name in ((10, "m.png"), (20, "z.png"), (30, "a.png"), (40, "n.png")):
        write_image(tmp_path / name, level)
        new, cursor = drained(camera, cursor)
        assert new == [level]


def test_images_whose_old_times_a_copying_program_keeps_are_taken(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    write_image(tmp_path / "today.png", 10, LONG_AGO + 1000)
    new, cursor = drained(camera, {})
    write_image(tmp_path / "older.png", 20, LONG_AGO)
    write_image(tmp_path / "oldest.png", 30, LONG_AGO - 1000)
    new, cursor = drained(camera, cursor)
    assert new == [30, 20]
    assert drained(camera, cursor)[0] == []


def test_images_after_the_clock_was_set_back_are_taken(tmp_path: Path) -> None:
    camera, cursor = FolderCamera(tmp_path, 2.0), Cursor()
    for level, moment in ((10, 100), (20, 110), (30, 50), (40, 60), (50, 120)):
        write_image(tmp_path / f"{level}.png", level, LONG_AGO + moment)
        new, cursor = drained(camera, cursor)
        assert new == [level]


def test_a_renamed_image_is_not_taken_again_and_its_successor_is(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    write_image(tmp_path / "new/a.bmp", 10)
    write_image(tmp_path / "new/b.bmp", 20)  # the same size and time
    _, cursor = drained(camera, {})
    (tmp_path / "new").rename(tmp_path / "day 1")
    assert drained(camera, cursor)[0] == []
    write_image(tmp_path / "new/a.bmp", 30, LONG_AGO + 1)
    new, cursor = drained(camera, cursor)
    assert new == [30]
    (tmp_path / "day 1").rename(tmp_path / "day 2")
    assert drained(camera, cursor)[0] == []


def test_an_image_of_the_same_time_and_size_is_taken_beside_the_first(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    write_image(tmp_path / "a.bmp", 10)
    _, cursor = drained(camera, {})
    write_image(tmp_path / "b.bmp", 20)
    assert drained(camera, cursor)[0] == [20]


def test_an_image_that_is_overwritten_is_taken_again(tmp_path: Path) -> None:
    camera, cursor = FolderCamera(tmp_path, 0), Cursor()
    for k in range(3):
        write_image(tmp_path / "latest.png", 10 * k, LONG_AGO + 60 * k)
        new, cursor = drained(camera, cursor)
        assert new == [10 * k]


def test_a_mount_that_comes_and_goes_does_not_repeat_its_images(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path / "in", 0)
    for k in range(4):
        write_image(tmp_path / f"in/card/{k}.png", 10 * k, LONG_AGO + k)
    _, cursor = drained(camera, {})
    (tmp_path / "in/card").rename(tmp_path / "unmounted")
    write_image(tmp_path / "in/other.png", 90, LONG_AGO + 9)
    new, cursor = drained(camera, cursor)
    assert new == [90]
    (tmp_path / "unmounted").rename(tmp_path / "in/card")
    assert drained(camera, cursor)[0] == []


def test_times_that_a_file_system_cuts_off_do_not_repeat_images(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    for k in range(3):
        write_image(tmp_path / f"{k}.png", 10 * k, LONG_AGO + 7 * k + 1.9)
    _, cursor = drained(camera, {})
    for k in range(3):
        os.utime(tmp_path / f"{k}.png", (LONG_AGO + 7 * k,) * 2)
    assert drained(camera, cursor)[0] == []


def test_the_last_image_of_a_burst_comes_once_it_is_clear_that_it_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(LONG_AGO + 1)
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    camera = FolderCamera(tmp_path, 5.0)
    for k in range(4):
        write_image(tmp_path / f"{k}.png", 10 * k, LONG_AGO + k * 0.2)
    new, cursor = drained(camera, {})
    assert new == [0]
    clock.advance(5)
    new, cursor = drained(camera, cursor)
    assert new == [30]
    assert drained(camera, cursor)[0] == []
    assert levels(frames_after(camera, {})) == [0, 30], "as in one poll"


def test_a_linked_folder_of_a_camera_is_read_once(tmp_path: Path) -> None:
    write_image(tmp_path / "disk/a.png", 10)
    (tmp_path / "in").mkdir()
    for name in ("one", "two"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(tmp_path / "in")
    frames = frames_after(FolderCamera(tmp_path / "in", 0), {})
    assert levels(frames) == [10] and frames[0].cursor["folder"]["file"] == "one/a.png"


@pytest.mark.parametrize("seed", range(20))
def test_every_image_comes_once_whatever_happens_between_polls(tmp_path: Path, seed: int) -> None:
    """Files arrive with any times, are renamed and deleted; each cursor may be the last stored."""
    chance = random.Random(seed)
    camera, cursor = FolderCamera(tmp_path, 0), Cursor()
    present: list[Path] = []
    delivered: list[int] = []
    level = 0
    for step in range(12):
        for _ in range(chance.randrange(4)):
            level += 1
            name = tmp_path / chance.choice(["", "day/", "x/y/"]) / f"{chance.random()}.png"
            write_image(name, level)
            with name.open("ab") as file:
                file.write(bytes(level))  # no two have the same size
            os.utime(name, (LONG_AGO + chance.randrange(5),) * 2)
            present.append(name)
        frames = frames_after(camera, cursor)
        stored = frames[: chance.randrange(len(frames) + 1)]  # killed after these
        delivered += levels(stored)
        cursor = stored[-1].cursor if stored else cursor
        if len(stored) == len(frames) and present:
            path = present.pop(chance.randrange(len(present)))
            if chance.random() < 0.7:
                renamed = path.with_name(f"renamed-{step}.png")
                path.rename(renamed)
                present.append(renamed)
            else:
                path.unlink()
    delivered += levels(frames_after(camera, cursor))
    assert sorted(delivered) == list(range(1, level + 1))


# Cursors


def test_up_to_the_file_of_an_old_cursor_everything_counts_as_taken(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 2.0)
    for k in range(5):
        write_image(tmp_path / f"{k}.png", 10 * k, LONG_AGO + 3 * k)
    write_image(tmp_path / "near.png", 90, LONG_AGO + 7.5)
    old = {"folder": {"mtime": (LONG_AGO + 6) * 10**9, "file": "2.png"}}
    new, cursor = drained(camera, old)
    assert new == [30, 40]
    write_image(tmp_path / "late.png", 50, LONG_AGO)
    write_image(tmp_path / "later.png", 60, LONG_AGO + 10.5 - 2)
    assert drained(camera, cursor)[0] == []
    write_image(tmp_path / "last.png", 70, LONG_AGO + 20)
    assert drained(camera, cursor)[0] == [70]


def test_an_old_cursor_within_a_recording_resumes_it(tmp_path: Path) -> None:
    for k, name in enumerate("abc"):
        write_video(tmp_path / f"{name}.mkv", steady_times(3), "mpeg4")
        os.utime(tmp_path / f"{name}.mkv", (LONG_AGO + k,) * 2)
    camera = VideoCamera(str(tmp_path / "*.mkv"), 1.0)
    stamp = {"mtime": (LONG_AGO + 1) * 10**9, "file": str(tmp_path / "b.mkv")}
    within = {"video": {**stamp, "seconds": 1.0, "end": False}}
    assert levels(frames_after(camera, within)) == pytest.approx([20, 0, 10, 20], abs=5)
    at_end = {"video": {**stamp, "seconds": 2.0, "end": True}}
    assert levels(frames_after(camera, at_end)) == pytest.approx([0, 10, 20], abs=5)


def test_an_earlier_version_can_go_on_from_a_new_cursor(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    write_image(tmp_path / "b.png", 10, LONG_AGO + 9)
    _, cursor = drained(camera, {})
    write_image(tmp_path / "a.png", 20, LONG_AGO)
    _, cursor = drained(camera, cursor)
    newest = cursor["folder"]
    assert (newest["mtime"], newest["file"]) == ((LONG_AGO + 9) * 10**9, "b.png")


def test_a_history_survives_json_with_any_names() -> None:
    history = FileHistory()
    for k, name in enumerate(("a b.png", "new\nline.png", "dir/ü.png", "\udc80.png", "1 2 3 4")):
        history.add(FileStamp(k, name, 10 * k), k / 3, complete=k % 2 == 0)
    assert FileHistory.parse(json.loads(json.dumps(history.as_dict()))) == history


def test_files_that_are_read_again_and_again_leave_one_line_each_and_few_outdated_ones() -> None:
    history, chance = FileHistory(), random.Random(0)
    for k in range(5 * MAX_OUTDATED):
        stamp = FileStamp(chance.randrange(100), f"{chance.randrange(20)}.png", k)
        history.add(stamp, k / 3, complete=k % 2 == 0)
        data = history.as_dict()
        assert FileHistory.parse(data) == history
        newest = max((read.mtime, name) for name, read in history.files.items())
        assert (data["mtime"], data["file"]) == newest
        assert data["files"].count(SEPARATOR) < 20 + MAX_OUTDATED


def test_a_cursor_stays_as_it_was_when_further_files_are_read() -> None:
    history = FileHistory()
    history.add(FileStamp(1, "a.png", 1), 0.0, complete=True)
    cursor = history.as_dict()
    history.add(FileStamp(2, "b.png", 1), 0.0, complete=True)
    assert list(FileHistory.parse(cursor).files) == ["a.png"]


def test_a_long_history_forgets_the_oldest_files_and_none_comes_again() -> None:
    history = FileHistory()
    stamps = [FileStamp(k, f"{k}.png", 1) for k in range(MAX_FILES + 3 * FORGOTTEN_AT_A_TIME)]
    for k, stamp in enumerate(stamps):
        assert history.unread(stamps[: k + 1]) == [stamp]
        history.add(stamp, 0.0, complete=True)
        if k % FORGOTTEN_AT_A_TIME == 0:
            history = FileHistory.parse(history.as_dict())
        if k > 20:
            stamps_seen = stamps[k - 20 : k + 1]
            assert history.unread(stamps_seen) == []
    assert history.unread(stamps) == []
    assert MAX_FILES - FORGOTTEN_AT_A_TIME <= len(history.files) <= MAX_FILES
    within = FileStamp(len(stamps) - MAX_FILES + FORGOTTEN_AT_A_TIME, "late.png", 1)
    assert history.unread([within]) == [within]


# Recordings


def test_a_recording_that_arrives_late_is_read_and_the_unfinished_one_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(time.time())
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    camera = VideoCamera(str(tmp_path / "*.mkv"), 1.0)
    complete = tmp_path / "complete"
    write_video(complete, steady_times(8), "mpeg4", container="matroska")
    content = complete.read_bytes()
    growing = tmp_path / "growing.mkv"
    growing.write_bytes(content[: len(content) // 2])
    clock.age(growing, 0)
    first = frames_after(camera, {})
    assert 0 < len(first) < 8
    write_video(tmp_path / "late.mkv", steady_times(2), "mpeg4")
    clock.age(tmp_path / "late.mkv", 1000)
    second = frames_after(camera, first[-1].cursor)
    assert levels(second) == pytest.approx([0, 10], abs=5)
    growing.write_bytes(content)
    clock.advance(2 * SETTLING_TIME)
    clock.age(growing, SETTLING_TIME)
    rest = frames_after(camera, second[-1].cursor)
    assert levels(first + rest) == pytest.approx([10 * k for k in range(8)], abs=5)
    assert frames_after(camera, rest[-1].cursor) == []


@pytest.mark.parametrize("container", ["matroska", "mpegts", "avi"])
def test_every_frame_of_two_recordings_that_grow_at_once_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str
) -> None:
    clock = ManualClock(time.time())
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    names = ("east", "west")
    contents = []
    for k, name in enumerate(names):
        whole = tmp_path / f"{name}.whole"
        write_noisy_video(whole, seconds=20, container=container, seed=k)
        contents.append(whole.read_bytes())
    camera = VideoCamera(str(tmp_path / "*.rec"), 1.0)
    taken: list[CameraFrame] = []
    cursor: Cursor = {}
    for tenths in (3, 5, 8, 10):
        for name, content in zip(names, contents, strict=True):
            (tmp_path / f"{name}.rec").write_bytes(content[: len(content) * tenths // 10])
            clock.age(tmp_path / f"{name}.rec", 2 * SETTLING_TIME)
        clock.advance(3 * SETTLING_TIME)
        new, fault = poll(camera, cursor)
        taken += new
        cursor = fault.resume_from or cursor if fault else new[-1].cursor
    expected = [
        frame
        for name in names
        for frame in frames_after(VideoCamera(f"{tmp_path}/{name}.rec", 1.0), {})
    ]
    assert len(expected) == 40
    assert sorted(pixels(taken)) == sorted(pixels(expected))


def pixels(frames: list[CameraFrame]) -> list[bytes]:
    return [frame.frame.tobytes() for frame in frames]


def write_noisy_video(path: Path, seconds: int, container: str, seed: int) -> None:
    """Write a video of five frames a second, no two of which are alike."""
    noise = np.random.default_rng(seed)
    with av.open(str(path), "w", container) as out:
        stream: Any = out.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 72, "yuv420p", 5
        for _ in range(5 * seconds):
            picture = noise.integers(0, 256, (72, 96, 3), dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def test_a_renamed_recording_is_not_read_again_and_a_ring_is(tmp_path: Path) -> None:
    camera = VideoCamera(str(tmp_path / "*.mkv"), 1.0)
    for k in range(3):
        write_video(tmp_path / f"{k}.mkv", steady_times(2 + k), "mpeg4")
        os.utime(tmp_path / f"{k}.mkv", (LONG_AGO + k,) * 2)
    frames = frames_after(camera, {})
    assert len(frames) == 2 + 3 + 4
    (tmp_path / "2.mkv").rename(tmp_path / "event.mkv")
    assert frames_after(camera, frames[-1].cursor) == []
    write_video(tmp_path / "0.mkv", [9 + t for t in steady_times(5)], "mpeg4")
    os.utime(tmp_path / "0.mkv", (LONG_AGO + 100,) * 2)
    assert len(frames_after(camera, frames[-1].cursor)) == 5


def test_a_recording_under_several_linked_names_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write_video(tmp_path / "disk/a.mkv", steady_times(2), "mpeg4")
    os.utime(tmp_path / "disk/a.mkv", (LONG_AGO,) * 2)
    (tmp_path / "disk/again").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/empty.mkv").mkdir()
    camera = VideoCamera(str(tmp_path / "**/*.mkv"), 1.0)
    assert len(frames_after(camera, {})) == 2
