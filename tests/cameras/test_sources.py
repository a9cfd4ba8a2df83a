"""Cameras that read files: every new frame comes exactly once and in order."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from camera_files import (
    LONG_AGO,
    ManualClock,
    flat,
    frames_after,
    jpeg,
    levels,
    poll,
    steady_times,
    write_image,
    write_image_at,
    write_video,
)
from damaged_files import write_jpeg_damaged_inside
from pydantic import ValidationError
from tiny import STREET, save_noise_image

from search.cameras.files import SETTLING_TIME
from search.cameras.sources import (
    Camera,
    FolderCamera,
    SceneCamera,
    StreamCamera,
    VideoCamera,
)
from search.config.cameras import CameraConfig
from search.data.images import read_image
from search.data.synthetic.scenes import render
from search.watch.open_camera import open_camera
from spaces.inputs import Frame


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """A clock that replaces the system's clock for all cameras."""
    clock = ManualClock(time.time())
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    return clock


# Folders


def test_a_growing_folder_gives_each_image_once_in_the_order_of_time_then_name(
    tmp_path: Path,
) -> None:
    camera = FolderCamera(tmp_path, 0)
    write_image(tmp_path / "z.png", 10, LONG_AGO)
    write_image(tmp_path / "day/a.png", 20, LONG_AGO + 5)
    write_image(tmp_path / "day/b.png", 30, LONG_AGO + 5)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".c.png").write_bytes(b"not finished by its copying program")
    write_image(tmp_path / ".thumbnails/a.png", 99, LONG_AGO + 9)
    frames = frames_after(camera, {})
    assert levels(frames) == [10, 20, 30]
    assert frames[1].cursor["folder"]["file"] == "day/a.png"
    assert frames[0].taken_at == "2023-11-14T22:13:20.000+00:00"
    assert frames_after(camera, frames[-1].cursor) == []
    write_image(tmp_path / "0.png", 40, LONG_AGO + 6)
    assert levels(frames_after(camera, frames[-1].cursor)) == [40]
    assert levels(frames_after(camera, frames[0].cursor)) == [20, 30, 40]


def test_of_images_close_in_time_the_first_is_taken_and_the_last_before_a_pause(
    tmp_path: Path,
) -> None:
    camera = FolderCamera(tmp_path, 2.0)
    for k in range(7):
        write_image(tmp_path / f"{k}.png", 10 * k, LONG_AGO + k * 0.8)
    frames = frames_after(camera, {})
    assert levels(frames) == [0, 30, 60]
    write_image(tmp_path / "late.png", 200, LONG_AGO + 1)
    write_image(tmp_path / "soon.png", 210, LONG_AGO + 5.5)
    (last,) = frames_after(camera, frames[-1].cursor)
    assert levels([last]) == [210]
    assert frames_after(camera, last.cursor) == []


# Near today, consecutive float64 modification times are 256 ns apart: the base time plus 100 ns
# rounds down, plus 200 ns rounds up.
@pytest.mark.parametrize("offset", [0, 100, 127, 128, 129, 200, 255])
def test_images_with_the_same_modification_time_are_all_read(tmp_path: Path, offset: int) -> None:
    for k in range(4):
        write_image_at(tmp_path / f"{k}.png", 10 * k, LONG_AGO * 10**9 + offset)
    camera = FolderCamera(tmp_path, 0)
    frames = frames_after(camera, {})
    assert levels(frames) == [0, 10, 20, 30]
    for k, camera_frame in enumerate(frames):
        assert levels(frames_after(camera, camera_frame.cursor)) == levels(frames[k + 1 :])


@pytest.mark.parametrize("offset", [0, 100, 127, 128, 129, 200, 255])
@pytest.mark.parametrize("every", [0.1, 0.3, 1.0, 2.0])
def test_the_interval_between_images_is_counted_to_the_nanosecond(
    tmp_path: Path, every: float, offset: int
) -> None:
    first, interval = LONG_AGO * 10**9 + offset, round(every * 10**9)
    times = {10: 0, 20: interval - 1, 30: interval, 40: 2 * interval - 1, 50: 2 * interval}
    for level, time_after_first in times.items():
        write_image_at(tmp_path / f"{level}.png", level, first + time_after_first)
    assert levels(frames_after(FolderCamera(tmp_path, every), {})) == [10, 30, 50]


def test_the_time_of_a_frame_is_rounded_down(tmp_path: Path) -> None:
    write_image_at(tmp_path / "a.png", 10, LONG_AGO * 10**9 + 999_999_999)
    (camera_frame,) = frames_after(FolderCamera(tmp_path, 0), {})
    assert camera_frame.taken_at == "2023-11-14T22:13:20.999+00:00"


@pytest.mark.parametrize("offset", [0, 100, 200])
def test_recent_and_future_files_are_distinguished_to_the_nanosecond(
    tmp_path: Path, clock: ManualClock, offset: int
) -> None:
    now, limit = LONG_AGO * 10**9 + offset, round(SETTLING_TIME * 10**9)
    clock.nanoseconds = now
    path = tmp_path / "a.png"
    for modified, fault_expected in (
        (now - limit + 1, False),  # the file may still be written: no fault yet
        (now - limit, True),
        (now + limit, False),
        (now + limit + 1, True),
    ):
        path.write_bytes(b"no image")
        os.utime(path, ns=(modified, modified))
        _, fault = poll(FolderCamera(tmp_path, 0), {})
        assert (fault is not None) == fault_expected
        assert ("in the future" in str(fault)) == (modified > now + limit)


def test_a_recent_unfinished_image_is_waited_for_and_an_old_one_is_a_fault_once(
    tmp_path: Path, clock: ManualClock
) -> None:
    camera = FolderCamera(tmp_path, 0)
    for name, seconds in (("a", 50), ("b", 40), ("c", 30)):
        write_image(tmp_path / f"{name}.png", seconds)
    complete = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(complete[:60])
    for name, seconds in (("a", 50), ("b", 40), ("c", 30)):
        clock.age(tmp_path / f"{name}.png", seconds)
    first = frames_after(camera, {})
    assert levels(first) == [50], "later images wait with the unfinished one"
    clock.advance(SETTLING_TIME - 40)
    frames, fault = poll(camera, first[-1].cursor)
    assert levels(frames) == [30]
    assert fault is not None and "b.png" in str(fault) and fault.resume_from == frames[-1].cursor
    assert frames_after(camera, fault.resume_from) == []
    (tmp_path / "b.png").write_bytes(complete)
    clock.age(tmp_path / "b.png", 0)
    assert levels(frames_after(camera, fault.resume_from)) == [40]


def test_an_image_damaged_inside_a_complete_file_is_left_out_and_named(tmp_path: Path) -> None:
    for k in range(3):
        damaged = save_noise_image(tmp_path / f"{k}.jpg", seed=k)
        if k == 1:
            write_jpeg_damaged_inside(damaged)
        os.utime(damaged, (LONG_AGO + k,) * 2)
    frames, fault = poll(FolderCamera(tmp_path, 0), {})
    assert [frame.cursor["folder"]["last"] for frame in frames] == ["0.jpg", "2.jpg"]
    assert fault and f"image {tmp_path / '1.jpg'}: cannot be read (broken data" in str(fault)
    assert frames_after(FolderCamera(tmp_path, 0), frames[-1].cursor) == []


def test_a_broken_last_image_is_a_fault_once(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    write_image(tmp_path / "a.png", 10, LONG_AGO)
    for k in range(3):
        path = tmp_path / f"b{k}.jpg"
        path.write_bytes(jpeg(flat(9))[: 50 * k])
        os.utime(path, (LONG_AGO + 1 + k, LONG_AGO + 1 + k))
    frames, fault = poll(camera, {})
    assert levels(frames) == [10] and fault is not None and fault.resume_from is not None
    assert "b0.jpg" in str(fault) and "2 more" in str(fault)
    assert frames_after(camera, fault.resume_from) == []


def test_an_image_from_the_future_does_not_hide_others(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    write_image(tmp_path / "future.png", 10, time.time() + 1e7)
    write_image(tmp_path / "old.png", 20, LONG_AGO)
    frames, fault = poll(camera, {})
    assert levels(frames) == [20] and "future.png" in str(fault)
    assert fault is not None and fault.resume_from == frames[-1].cursor


def test_a_missing_folder_is_a_fault_until_it_exists(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path / "mount", 0)
    frames, fault = poll(camera, {})
    assert frames == [] and "no such folder" in str(fault)
    assert fault is not None and fault.resume_from is None
    write_image(tmp_path / "mount/a.png", 10, LONG_AGO)
    assert levels(frames_after(camera, {})) == [10]


def test_old_images_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 10_000
    for k in range(count):
        (tmp_path / f"{k:06}.jpg").touch()
    write_image(tmp_path / "z.png", 10, time.time())
    last = (tmp_path / f"{count - 1:06}.jpg").stat().st_mtime_ns
    images_read: list[Path] = []

    def counting_read_image(path: Path) -> Frame:
        images_read.append(path)
        return read_image(path)

    monkeypatch.setattr("search.cameras.sources.read_image", counting_read_image)
    cursor = {"folder": {"mtime": last, "file": "y"}}
    assert levels(frames_after(FolderCamera(tmp_path, 0), cursor)) == [10]
    assert images_read == [tmp_path / "z.png"]


# Videos as cameras


def test_recordings_are_read_in_order_and_a_growing_one_is_resumed(
    tmp_path: Path, clock: ManualClock
) -> None:
    camera = VideoCamera(str(tmp_path / "*.ts"), 1.0)
    complete = tmp_path / "complete"
    write_video(complete, steady_times(6), container="mpegts")
    content = complete.read_bytes()
    write_video(tmp_path / "b.ts", steady_times(3))
    clock.age(tmp_path / "b.ts", 3 * SETTLING_TIME)
    first = frames_after(camera, {})
    assert len(first) == 3
    growing = tmp_path / "a.ts"
    growing.write_bytes(content[: len(content) // 2 // 188 * 188])
    clock.age(growing, 0)
    part = frames_after(camera, first[-1].cursor)
    growing.write_bytes(content)
    clock.advance(1)
    clock.age(growing, 0)
    rest = frames_after(camera, part[-1].cursor)
    assert 0 < len(part) < 6
    assert levels(part + rest) == pytest.approx([10 * k for k in range(6)], abs=3)
    assert frames_after(camera, rest[-1].cursor) == []
    assert levels(frames_after(camera, first[0].cursor)) == levels(first[1:] + part + rest)


def test_every_cursor_of_a_recording_resumes_at_the_next_frame(
    tmp_path: Path, clock: ManualClock
) -> None:
    camera = VideoCamera(str(tmp_path / "*.mkv"), 0.5)
    for k, name in enumerate("ab"):
        write_video(tmp_path / f"{name}.mkv", steady_times(3), "mpeg4")
        clock.age(tmp_path / f"{name}.mkv", 3 * SETTLING_TIME - k)
    frames = frames_after(camera, {})
    assert len(frames) == 12
    for k, camera_frame in enumerate(frames):
        assert levels(frames_after(camera, camera_frame.cursor)) == levels(frames[k + 1 :])


def test_a_truncated_recording_gives_its_frames_and_a_fault_once(
    tmp_path: Path, clock: ManualClock
) -> None:
    cut, after = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write_video(cut, steady_times(8), "mpeg4")
    write_video(after, steady_times(2), "mpeg4")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    clock.age(cut, 20)
    clock.age(after, 10)
    camera = VideoCamera(str(tmp_path / "*.mkv"), 1.0)
    early = frames_after(camera, {})
    assert len(early) >= 2, "an unfinished recording is no fault, and later recordings wait"
    clock.advance(SETTLING_TIME)
    frames, fault = poll(camera, {})
    assert levels(frames) == levels(early) + levels(frames[-2:]) and len(frames) == len(early) + 2
    assert "a.mkv" in str(fault) and fault is not None and fault.resume_from == frames[-1].cursor
    assert frames_after(camera, fault.resume_from) == []
    later, fault = poll(camera, early[-1].cursor)
    assert levels(later) == levels(frames[-2:]) and "a.mkv" in str(fault)


def test_a_broken_last_recording_is_a_fault_once_and_read_when_replaced(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, steady_times(3))
    complete = path.read_bytes()
    path.write_bytes(complete[: len(complete) // 2])
    clock.age(path, 0)
    camera = VideoCamera(str(path), 1.0)
    assert frames_after(camera, {}) == [], "an mp4 file cannot be opened before it is finished"
    clock.age(path, 2 * SETTLING_TIME)
    frames, fault = poll(camera, {})
    assert frames == [] and fault is not None and fault.resume_from
    assert frames_after(camera, fault.resume_from) == []
    path.write_bytes(complete)
    clock.age(path, 0)
    assert len(frames_after(camera, fault.resume_from)) == 3


def test_a_missing_video_is_a_fault(tmp_path: Path) -> None:
    _, fault = poll(VideoCamera(str(tmp_path / "*.mkv"), 1.0), {})
    assert "no such file" in str(fault) and fault is not None and fault.resume_from is None


# Scenes


def test_scenes_resume_at_the_next_one() -> None:
    camera = SceneCamera(STREET, 3)
    first = frames_after(camera, {})
    second = frames_after(camera, first[-1].cursor)
    for k, camera_frame in enumerate(first + second):
        assert (camera_frame.frame == render(STREET, k).image).all()
    assert len(first) == len(second) == 3


def test_the_cursor_of_another_camera_type_counts_as_empty(
    tmp_path: Path, clock: ManualClock
) -> None:
    write_image(tmp_path / "a.png", 10)
    write_video(tmp_path / "a.mkv", steady_times(2), "mpeg4")
    clock.age(tmp_path / "a.mkv", 2 * SETTLING_TIME)
    cameras: list[Camera] = [
        FolderCamera(tmp_path, 0),
        VideoCamera(str(tmp_path / "a.mkv"), 1.0),
        SceneCamera(STREET, 2),
    ]
    cursors = [frames_after(camera, {})[-1].cursor for camera in cameras]
    for k, camera in enumerate(cameras):
        count = len(frames_after(camera, {}))
        for other, cursor in enumerate(cursors):
            restarts = len(frames_after(camera, cursor)) == count
            assert restarts == (k != other or isinstance(camera, SceneCamera))


# Config


def test_each_camera_type_is_opened(tmp_path: Path) -> None:
    cameras: list[tuple[dict[str, Any], Camera]] = [
        ({"folder": "in"}, FolderCamera(tmp_path / "in", 0.0)),
        ({"folder": "in", "every": 5.0}, FolderCamera(tmp_path / "in", 5.0)),
        ({"video": "a/*.mkv"}, VideoCamera(f"{tmp_path}/a/*.mkv", 1.0)),
        ({"video": "/a.mp4", "every": 2}, VideoCamera("/a.mp4", 2.0)),
        ({"stream": "rtsp://c/1"}, StreamCamera("rtsp://c/1", 1.0, 10.0)),
        ({"stream": "http://c", "patience": 3}, StreamCamera("http://c", 1, 3)),
    ]
    for section, camera in cameras:
        assert open_camera(CameraConfig(**section), tmp_path) == camera
    scenes = open_camera(
        CameraConfig.model_validate({"scenes": {"seed": 5}, "count": 4}), tmp_path
    )
    assert isinstance(scenes, SceneCamera) and scenes.count == 4 and scenes.settings.seed == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "exactly one"),
        ({"folder": "a", "video": "b"}, "exactly one"),
        ({"stream": "rtmp://camera/1"}, "must begin with rtsp"),
        ({"stream": "camera/rtsp://1"}, "must begin with rtsp"),
        ({"scenes": {}}, "need a count"),
        ({"folder": "a", "count": 3}, "need a count"),
        ({"scenes": {}, "count": 3, "every": 1.0}, "every does not go"),
        ({"video": "a", "patience": 3.0}, "patience goes with stream"),
        ({"folder": "a", "every": 0.0}, "greater than 0"),
        ({"folder": "a", "every": float("inf")}, "finite"),
        ({"folder": "a", "fps": 3}, "Extra inputs"),
    ],
)
def test_an_invalid_camera_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CameraConfig.model_validate(data)
