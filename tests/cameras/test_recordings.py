"""What is kept of a camera survives any kill, whole and once; one camera's fault is its own."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Event as Begun
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import FORKED, wait_until
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import STREET

from search.cameras.deduplication import grey_picture, near_identical
from search.cameras.polling import Collected, collect
from search.cameras.recordings import BadFootage, Recordings
from search.cameras.sources import Camera, Cursor, FolderCamera, SceneCamera, Seen, StreamCamera
from search.data.frames import read_image
from search.data.synthetic.scenes import render
from search.utils.files import CannotWrite

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def seen(level: int, when: str = "2026-05-04T12:00:00.250+00:00") -> Seen:
    return Seen(np.full((36, 48, 3), level, dtype=np.uint8), when, {"at": level})


def level_of(path: Path) -> int:
    return round(float(read_image(path).mean()))


def in_order(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def everything(footage: Recordings, folder: Path) -> list[Path]:
    """All frames that were kept, oldest first."""
    windows = [path for k in footage.windows() for path in in_order(footage.window(k))]
    return windows + (in_order(folder / "open") if (folder / "open").is_dir() else [])


# One camera's footage


def test_frames_are_kept_in_order_until_they_are_a_window(tmp_path: Path) -> None:
    footage = Recordings(tmp_path)
    assert footage.close() is None and footage.windows() == [] and footage.cursor == {}
    assert [footage.keep(seen(level)) for level in (0, 40, 80)] == [True] * 3
    assert footage.waiting == 3 and footage.close() == 1 and footage.waiting == 0
    footage.keep(seen(120))
    assert footage.close() == 2 and footage.close() is None and footage.windows() == [1, 2]
    assert [level_of(path) for path in in_order(footage.window(1))] == [0, 40, 80]
    assert in_order(tmp_path / "windows/00000002")[0].name == "20260504T120000.250-00000004.jpg"
    assert Recordings(tmp_path).cursor == {"at": 120}


def test_names_sort_by_time_and_then_by_number(tmp_path: Path) -> None:
    footage = Recordings(tmp_path)
    hours = ("11:00:00.000Z", "11:00:00.000Z", "14:00:00+02:00", "12:00:00.001Z")
    for k, hour in enumerate(hours):
        footage.keep(seen(40 * k, f"2026-05-04T{hour}"))
    assert [level_of(path) for path in in_order(tmp_path / "open")] == [0, 40, 80, 120]


def test_what_shows_the_same_as_the_last_kept_is_not_kept_but_passed(tmp_path: Path) -> None:
    footage = Recordings(tmp_path)
    assert [footage.keep(seen(level)) for level in (100, 104, 108, 112, 104)] == [
        True, False, False, True, False,
    ]  # fmt: skip
    assert footage.waiting == 2 and Recordings(tmp_path).cursor == {"at": 104}


@pytest.mark.parametrize("closed", [False, True])
def test_another_process_knows_the_last_kept_frame(tmp_path: Path, closed: bool) -> None:
    footage = Recordings(tmp_path)
    footage.keep(seen(100))
    if closed:
        footage.close()
    again = Recordings(tmp_path)
    assert not again.keep(seen(103)) and again.keep(seen(150))
    newest = max(everything(again, tmp_path), key=lambda path: path.name)
    assert newest.name.endswith("-00000002.jpg"), "numbers go on"


def test_what_is_kept_is_the_frame_as_jpeg_can_keep_it(tmp_path: Path) -> None:
    footage = Recordings(tmp_path)
    frame = render(STREET, 0).image
    footage.keep(Seen(frame, NOW.isoformat(), {}))
    again = read_image(in_order(tmp_path / "open")[0])
    assert again.shape == frame.shape
    assert np.abs(again.astype(int) - frame).mean() < 4
    assert near_identical(grey_picture(again), grey_picture(frame))


def test_windows_that_nobody_needs_go_and_the_newest_stays(tmp_path: Path) -> None:
    footage = Recordings(tmp_path)
    for k in range(5):
        footage.keep(seen(40 * k))
        footage.close()
    (tmp_path / "windows/.00000009").mkdir()  # by a process that was killed as it pruned
    footage.prune([2])
    assert footage.windows() == [2, 5]
    assert sorted(os.listdir(tmp_path / "windows")) == ["00000002", "00000005"]
    footage.prune([])
    footage.keep(seen(250))
    assert footage.close() == 6 and footage.windows() == [5, 6]


def test_a_file_that_a_killed_process_has_left_is_no_frame(tmp_path: Path) -> None:
    footage = Recordings(tmp_path)
    footage.keep(seen(0))
    (tmp_path / "open/.20260504T120000.250-00000002.jpg.77.part").write_bytes(b"half")
    assert footage.waiting == 1 and footage.close() == 1
    assert len(os.listdir(footage.window(1))) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"cursor": {}}'])
def test_a_state_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "camera.json").write_text(text)
    with pytest.raises(BadFootage, match=r"camera\.json: .*remove the file"):
        Recordings(tmp_path)


def test_a_place_that_takes_no_files_is_no_fault_of_the_camera(tmp_path: Path) -> None:
    kept = footages(tmp_path, "a")
    (tmp_path / "a").touch()
    with pytest.raises(CannotWrite):
        kept["a"].failed(NOW)
    with pytest.raises(CannotWrite):
        collect({"a": SceneCamera(STREET, 2)}, kept, 2, NOW)


# Pauses after faults


def test_pauses_double_from_half_a_minute_to_an_hour(tmp_path: Path) -> None:
    footage, now = Recordings(tmp_path), NOW
    assert footage.may_ask(now)
    for pause in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        footage.failed(now)
        again = Recordings(tmp_path)
        assert not again.may_ask(now + timedelta(seconds=pause - 0.001))
        now += timedelta(seconds=pause)
        assert again.may_ask(now)
    footage.well()
    assert Recordings(tmp_path).may_ask(NOW)
    footage.failed(NOW)
    assert Recordings(tmp_path).may_ask(NOW + timedelta(seconds=30)), "from the begin again"


@given(st.integers(1, 3000), st.integers(-10_000, 10_000))
def test_no_pause_is_longer_than_an_hour_whatever_the_clock_does(
    shared_folder: Path, faults: int, offset: int
) -> None:
    state = {"cursor": {}, "faults": faults, "not_before": None}
    (shared_folder / "camera.json").write_text(json.dumps(state))
    footage = Recordings(shared_folder)
    footage.failed(NOW)
    later = NOW + timedelta(seconds=offset)
    assert footage.may_ask(later) or footage.may_ask(later + timedelta(hours=1))


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("footage")


# All cameras at once


def fill(folder: Path, count: int, start: int = 0) -> Path:
    """Images whose frames are all distinct, each a second later."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(start, start + count):
        path = folder / f"{k:04}.png"
        Image.fromarray(seen(20 * (k % 12)).frame).save(path)
        os.utime(path, (1_700_000_000 + k,) * 2)
    return folder


def footages(folder: Path, *names: str) -> dict[str, Recordings]:
    return {name: Recordings(folder / name) for name in names}


def test_each_camera_is_asked_until_enough_frames_wait(tmp_path: Path) -> None:
    cameras: dict[str, Camera] = {
        "many": FolderCamera(fill(tmp_path / "in", 9), 0),
        "few": FolderCamera(fill(tmp_path / "few", 2), 0),
        "scenes": SceneCamera(STREET, 3),
    }
    kept = footages(tmp_path / "out", *cameras)
    assert collect(cameras, kept, 4, NOW) == {
        "many": Collected(4, None), "few": Collected(2, None), "scenes": Collected(3, None),
    }  # fmt: skip
    assert [kept[name].waiting for name in cameras] == [4, 2, 3]
    assert kept["many"].close() == 1
    fill(tmp_path / "few", 1, start=2)
    kept = footages(tmp_path / "out", *cameras)
    assert collect(cameras, kept, 4, NOW) == {
        "many": Collected(4, None), "few": Collected(1, None), "scenes": Collected(1, None),
    }  # fmt: skip
    many = everything(kept["many"], tmp_path / "out/many")
    assert [level_of(path) for path in many] == [20 * k for k in range(8)]
    assert collect(cameras, kept, 4, NOW)["many"] == Collected(0, None)


def test_a_dead_camera_is_put_off_and_the_others_go_on(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    cameras: dict[str, Camera] = {
        "dead": StreamCamera(dead, 1.0, 1.0),
        "gone": FolderCamera(tmp_path / "gone", 0),
        "fine": SceneCamera(STREET, 2),
    }
    kept = footages(tmp_path / "out", *cameras)
    found = collect(cameras, kept, 8, NOW)
    assert found["fine"] == Collected(2, None)
    assert "Connection refused" in str(found["dead"].fault)
    assert "no such folder" in str(found["gone"].fault)
    again = collect(cameras, footages(tmp_path / "out", *cameras), 8, NOW + timedelta(seconds=29))
    assert again == {"fine": Collected(2, None)}
    fill(tmp_path / "gone", 1)
    kept = footages(tmp_path / "out", *cameras)
    found = collect(cameras, kept, 8, NOW + timedelta(seconds=30))
    assert found["gone"] == Collected(1, None) and found["dead"].fault
    assert kept["gone"].may_ask(NOW) and not kept["dead"].may_ask(NOW + timedelta(seconds=89))


def test_a_broken_file_is_told_once_and_does_not_put_its_camera_off(tmp_path: Path) -> None:
    fill(tmp_path / "in", 2)
    broken = tmp_path / "in/0002.png"
    broken.write_bytes(b"no image")
    os.utime(broken, (1_700_000_002,) * 2)
    cameras: dict[str, Camera] = {"a": FolderCamera(tmp_path / "in", 0)}
    found = collect(cameras, footages(tmp_path / "out", "a"), 8, NOW)["a"]
    assert found.frames == 2 and "0002.png" in str(found.fault)
    fill(tmp_path / "in", 1, start=3)
    assert collect(cameras, footages(tmp_path / "out", "a"), 8, NOW)["a"] == Collected(1, None)


class Still(BaseHTTPRequestHandler):
    """Gives one picture for ever."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=--frame")
        self.end_headers()
        picture = io.BytesIO()
        Image.fromarray(seen(90).frame).save(picture, "jpeg")
        content = picture.getvalue()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
        try:
            while not self.server.over.is_set():  # type: ignore[attr-defined]
                self.wfile.write(head.encode() + content + b"\r\n")
                time.sleep(0.01)
        except OSError:
            pass  # the client has had enough

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def still_street() -> Iterator[str]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Still)
    server.daemon_threads, server.over = True, threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_stream_of_a_still_scene_does_not_hold_the_round(
    tmp_path: Path, still_street: str
) -> None:
    cameras: dict[str, Camera] = {"still": StreamCamera(still_street, 0.05, 0.5)}
    kept = footages(tmp_path / "out", "still")
    start = time.monotonic()
    assert collect(cameras, kept, 4, NOW) == {"still": Collected(1, None)}
    assert 0.85 < time.monotonic() - start < 2.5
    assert kept["still"].may_ask(NOW)


def _ask_for_long(street: str, out: Path, begun: Begun) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun.set()
    cameras: dict[str, Camera] = {"still": StreamCamera(street, 0.05, 1.0)}
    collect(cameras, footages(out, "still"), 10_000, NOW)


def test_ctrl_c_ends_a_round_that_would_be_long(tmp_path: Path, still_street: str) -> None:
    begun = FORKED.Event()
    process = FORKED.Process(target=_ask_for_long, args=(still_street, tmp_path / "out", begun))
    process.start()
    assert begun.wait(60) and process.pid is not None
    wait_until(lambda: Recordings(tmp_path / "out/still").waiting == 1)
    os.kill(process.pid, signal.SIGINT)
    process.join(5)
    assert process.exitcode == 1, "by the KeyboardInterrupt that Python lets through"


# Kills


@dataclass(frozen=True)
class Slow:
    """A folder camera that leaves a killer some time."""

    camera: FolderCamera

    def look(self, cursor: Cursor) -> Iterator[Seen]:
        for each in self.camera.look(cursor):
            time.sleep(0.001)
            yield each


def _rounds(source: Path, out: Path, begun: Begun) -> None:
    begun.set()
    cameras: dict[str, Camera] = {"a": Slow(FolderCamera(source, 0))}
    while True:
        kept = footages(out, "a")
        collect(cameras, kept, 5, NOW)
        if kept["a"].waiting == 5:
            kept["a"].close()
        else:
            break


def test_killed_anywhere_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    count, chance = 83, random.Random(1)
    source, out = fill(tmp_path / "in", count), tmp_path / "out"
    kills = 0
    while True:
        begun = FORKED.Event()
        process = FORKED.Process(target=_rounds, args=(source, out, begun))
        process.start()
        assert begun.wait(60)
        process.join(chance.uniform(0.0, 0.1) if kills < 12 else 60)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 5
    kept = Recordings(out / "a")
    frames = [path for path in everything(kept, out / "a") if path.suffix == ".jpg"]
    assert [level_of(path) for path in frames] == [20 * (k % 12) for k in range(count)]
    assert kept.windows() == list(range(1, count // 5 + 1))
    for number in kept.windows():
        assert len(os.listdir(kept.window(number))) == 5
    assert kept.waiting == count % 5


def _with_a_full_disk(source: Path, out: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
    cameras: dict[str, Camera] = {
        "large": FolderCamera(source, 0),
        "small": SceneCamera(STREET, 0),
    }
    try:
        collect(cameras, footages(out, *cameras), 5, NOW)
    except CannotWrite:
        os._exit(7)


def test_a_full_disk_ends_the_round_and_loses_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for k in range(3):
        Image.fromarray(render(STREET, k).image).save(source / f"{k}.png")
        os.utime(source / f"{k}.png", (1_700_000_000 + k,) * 2)
    process = FORKED.Process(target=_with_a_full_disk, args=(source, out))
    process.start()
    process.join(30)
    assert process.exitcode == 7
    kept = footages(out, "large")
    assert kept["large"].waiting == 0 and kept["large"].may_ask(NOW)
    assert collect({"large": FolderCamera(source, 0)}, kept, 5, NOW)["large"].frames == 3
