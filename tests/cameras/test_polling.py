"""Polling all cameras: a fault affects its own camera only, and a kill loses no frame."""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event as StartEvent
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import pytest
from camera_files import (
    LONG_AGO,
    TickingClock,
    image_level,
    recordings_in,
    stored_frames,
    uniform_camera_frame,
)
from commands import FORKED, start_forked, wait_until
from PIL import Image
from stream_servers import closed_port, http_camera, serving
from tiny import STREET

from search.cameras.polling import PollResult, poll_cameras
from search.cameras.recordings import Recordings
from search.cameras.sources import (
    Camera,
    CameraFrame,
    Cursor,
    FolderCamera,
    SceneCamera,
    StreamCamera,
)
from search.data.synthetic.scenes import render
from search.utils.files import CannotWrite

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
NO_LIMIT = 120.0
"""Seconds that suffice on any busy machine."""


def fill(folder: Path, count: int, start: int = 0) -> Path:
    """Write distinct images whose modification times are a second apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(start, start + count):
        path = folder / f"{k:04}.png"
        Image.fromarray(uniform_camera_frame(20 * (k % 12)).frame).save(path)
        os.utime(path, (LONG_AGO + k,) * 2)
    return folder


def test_each_camera_is_polled_until_enough_frames_wait(tmp_path: Path) -> None:
    cameras: dict[str, Camera] = {
        "many": FolderCamera(fill(tmp_path / "in", 9), 0),
        "few": FolderCamera(fill(tmp_path / "few", 2), 0),
        "scenes": SceneCamera(STREET, 3),
    }
    recordings = recordings_in(tmp_path / "out", *cameras)
    assert poll_cameras(cameras, recordings, 4, NOW) == {
        "many": PollResult(4, None), "few": PollResult(2, None), "scenes": PollResult(3, None),
    }  # fmt: skip
    assert [recordings[name].waiting for name in cameras] == [4, 2, 3]
    assert recordings["many"].close_window() == 1
    fill(tmp_path / "few", 1, start=2)
    recordings = recordings_in(tmp_path / "out", *cameras)
    assert poll_cameras(cameras, recordings, 4, NOW) == {
        "many": PollResult(4, None), "few": PollResult(1, None), "scenes": PollResult(1, None),
    }  # fmt: skip
    many = stored_frames(recordings["many"], tmp_path / "out/many")
    assert [image_level(path) for path in many] == [20 * k for k in range(8)]
    assert poll_cameras(cameras, recordings, 4, NOW)["many"] == PollResult(0, None)


def test_a_camera_with_a_fault_pauses_and_the_others_continue(tmp_path: Path) -> None:
    cameras: dict[str, Camera] = {
        "dead": StreamCamera(f"http://127.0.0.1:{closed_port()}/", 1.0, NO_LIMIT),
        "gone": FolderCamera(tmp_path / "gone", 0),
        "fine": SceneCamera(STREET, 2),
    }
    recordings = recordings_in(tmp_path / "out", *cameras)
    results = poll_cameras(cameras, recordings, 8, NOW)
    assert results["fine"] == PollResult(2, None)
    assert "Connection refused" in str(results["dead"].fault)
    assert "no such folder" in str(results["gone"].fault)
    recordings = recordings_in(tmp_path / "out", *cameras)
    results = poll_cameras(cameras, recordings, 8, NOW + timedelta(seconds=29))
    assert results == {"fine": PollResult(2, None)}
    fill(tmp_path / "gone", 1)
    recordings = recordings_in(tmp_path / "out", *cameras)
    results = poll_cameras(cameras, recordings, 8, NOW + timedelta(seconds=30))
    assert results["gone"] == PollResult(1, None) and results["dead"].fault
    assert recordings["gone"].may_poll(NOW)
    assert not recordings["dead"].may_poll(NOW + timedelta(seconds=89))


def test_a_broken_file_is_a_fault_once_and_does_not_pause_its_camera(tmp_path: Path) -> None:
    fill(tmp_path / "in", 2)
    broken = tmp_path / "in/0002.png"
    broken.write_bytes(b"no image")
    os.utime(broken, (LONG_AGO + 2,) * 2)
    cameras: dict[str, Camera] = {"a": FolderCamera(tmp_path / "in", 0)}
    result = poll_cameras(cameras, recordings_in(tmp_path / "out", "a"), 8, NOW)["a"]
    assert result.frames == 2 and "0002.png" in str(result.fault)
    fill(tmp_path / "in", 1, start=3)
    result = poll_cameras(cameras, recordings_in(tmp_path / "out", "a"), 8, NOW)["a"]
    assert result == PollResult(1, None)


@pytest.fixture
def still_scene() -> Iterator[str]:
    """The URL of a stream that sends the same image without end."""
    with serving(http_camera()) as port:
        yield f"http://127.0.0.1:{port}/still"


def test_a_stream_of_a_still_scene_does_not_delay_the_round(
    tmp_path: Path, still_scene: str
) -> None:
    cameras: dict[str, Camera] = {"still": StreamCamera(still_scene, 0.05, NO_LIMIT)}
    recordings = recordings_in(tmp_path / "out", "still")
    limit = 4 * 0.05 * 2 + NO_LIMIT
    clock = TickingClock((limit + 0.1) / 3)
    assert poll_cameras(cameras, recordings, 4, NOW, clock) == {"still": PollResult(1, None)}
    assert clock.now == pytest.approx((limit + 0.1) * 4 / 3), (
        "the clock is read at the start and per frame"
    )
    assert recordings["still"].may_poll(NOW)


def _poll_for_long(street: str, out: Path, started: StartEvent) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started.set()
    cameras: dict[str, Camera] = {"still": StreamCamera(street, 0.05, NO_LIMIT)}
    poll_cameras(cameras, recordings_in(out, "still"), 10_000, NOW)


def test_ctrl_c_ends_a_long_poll(tmp_path: Path, still_scene: str) -> None:
    started = FORKED.Event()
    process = start_forked(_poll_for_long, still_scene, tmp_path / "out", started)
    assert started.wait(NO_LIMIT) and process.pid is not None
    wait_until(lambda: Recordings(tmp_path / "out/still").waiting == 1)
    os.kill(process.pid, signal.SIGINT)
    process.join(NO_LIMIT)
    assert process.exitcode == 1, "Python exits with 1 after a KeyboardInterrupt"


# Kills


@dataclass(frozen=True)
class SteppedCamera:
    """A folder camera that announces each frame and yields it once the test permits it."""

    camera: FolderCamera
    announced: Semaphore
    permitted: Semaphore

    def poll(self, cursor: Cursor) -> Iterator[CameraFrame]:
        for frame in self.camera.poll(cursor):
            self.announced.release()
            self.permitted.acquire()
            yield frame


def _poll_and_close_windows(source: Path, out: Path, *steps: Semaphore) -> None:
    cameras: dict[str, Camera] = {"a": SteppedCamera(FolderCamera(source, 0), *steps)}
    while True:
        recordings = recordings_in(out, "a")
        poll_cameras(cameras, recordings, 5, NOW)
        if recordings["a"].waiting == 5:
            recordings["a"].close_window()
        else:
            break


def _run_for(frames: int, source: Path, out: Path) -> int | None:
    """Kill a process after it received `frames` frames; return its exit code.

    The exit code is 0 if the process ended by itself because fewer frames were left.
    """
    announced, permitted = FORKED.Semaphore(0), FORKED.Semaphore(0)
    arguments = (source, out, announced, permitted)
    process = start_forked(_poll_and_close_windows, *arguments)
    for _ in range(frames):
        while not announced.acquire(timeout=0.1):
            if not process.is_alive():
                break
        permitted.release()
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode


def test_a_kill_at_any_moment_neither_loses_nor_repeats_a_frame(tmp_path: Path) -> None:
    count, chance = 83, random.Random(1)
    source, out = fill(tmp_path / "in", count), tmp_path / "out"
    kills = 0
    while (exit_code := _run_for(chance.randrange(1, 14), source, out)) != 0:
        assert exit_code == -signal.SIGKILL
        kills += 1
    assert kills >= 5
    recordings = Recordings(out / "a")
    levels = [image_level(path) for path in stored_frames(recordings, out / "a")]
    assert levels == [20 * (k % 12) for k in range(count)]
    assert recordings.window_numbers() == list(range(1, count // 5 + 1))
    for number in recordings.window_numbers():
        assert len(os.listdir(recordings.window_folder(number))) == 5
    assert recordings.waiting == count % 5


def _with_a_full_disk(source: Path, out: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
    cameras: dict[str, Camera] = {
        "large": FolderCamera(source, 0),
        "small": SceneCamera(STREET, 0),
    }
    try:
        poll_cameras(cameras, recordings_in(out, *cameras), 5, NOW)
    except CannotWrite:
        os._exit(7)


def test_a_full_disk_ends_the_poll_and_loses_no_frame(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for k in range(3):
        Image.fromarray(render(STREET, k).image).save(source / f"{k}.png")
        os.utime(source / f"{k}.png", (LONG_AGO + k,) * 2)
    process = start_forked(_with_a_full_disk, source, out)
    process.join(NO_LIMIT)
    assert process.exitcode == 7
    recordings = recordings_in(out, "large")
    assert recordings["large"].waiting == 0 and recordings["large"].may_poll(NOW)
    assert (
        poll_cameras({"large": FolderCamera(source, 0)}, recordings, 5, NOW)["large"].frames == 3
    )
