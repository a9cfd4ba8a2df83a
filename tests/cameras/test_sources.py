"""Cameras: real folders, real video files, real servers; what is new comes once, and in order."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import socketserver
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from tiny import STREET

from search.cameras.deduplication import GRID, NOTABLE, grey_picture, near_identical
from search.cameras.sources import (
    YOUNG,
    Camera,
    CameraFault,
    Cursor,
    FolderCamera,
    SceneCamera,
    Seen,
    StreamCamera,
    VideoCamera,
)
from search.cameras.video import BadVideo, frames_of_file, frames_of_stream
from search.config.cameras import CameraConfig
from search.data.frames import read_image
from search.data.synthetic.scenes import render
from spaces.inputs import Frame

WIDTH, HEIGHT = 96, 72
LONG_AGO = 1_700_000_000
PATIENCE = 1.0
DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"


def flat(level: int) -> Frame:
    return np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)


def level_of(frame: Frame) -> int:
    return round(float(frame.mean()))


def jpeg(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


def write_video(
    target: Path | io.BytesIO,
    times: Sequence[float],
    codec: str = "libx264",
    container: str | None = None,
    start: int = 0,
) -> None:
    """A video whose frame at `t` seconds is as grey as `10 * t`, with a key frame every 7.

    Its presentation times count from `start`, in milliseconds.
    """
    with av.open(target if isinstance(target, io.BytesIO) else str(target), "w", container) as out:
        stream: Any = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.gop_size = 7
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for t in times:
            frame = av.VideoFrame.from_ndarray(flat(round(10 * t)), format="rgb24")
            frame.pts, frame.time_base = start + round(t * 1000), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def steady(seconds: float, rate: int = 10) -> list[float]:
    return [k / rate for k in range(round(seconds * rate))]


def age(path: Path, seconds: float) -> None:
    """Set the time of modification to so many seconds ago."""
    os.utime(path, (time.time() - seconds,) * 2)


def taken(camera: Camera, cursor: Cursor) -> tuple[list[Seen], CameraFault | None]:
    """All that a look gives, and the fault at its end; cursors survive JSON."""
    seen: list[Seen] = []
    try:
        for each in camera.look(json.loads(json.dumps(cursor))):
            seen.append(each)
    except CameraFault as fault:
        return seen, fault
    return seen, None


def all_well(camera: Camera, cursor: Cursor) -> list[Seen]:
    seen, fault = taken(camera, cursor)
    assert fault is None, fault
    return seen


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


# Video files


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx264", "mkv"), ("libx264", "mp4"), ("libx264", "ts"), ("mpeg4", "mp4"),
     ("mpeg4", "mkv")],
)  # fmt: skip
@pytest.mark.parametrize("after", [-1.0, 0.0, 2.0, 2.95, 9.0])
def test_frames_are_taken_by_time_and_after_a_time(
    tmp_path: Path, codec: str, suffix: str, after: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_video(path, steady(6), codec)
    found = list(frames_of_file(path, 1.0, after))
    assert [t for t, _ in found] == pytest.approx([t for t in range(6) if t > after], abs=0.002)
    for t, frame in found:
        assert frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8
        assert abs(level_of(frame) - 10 * t) < 5


@pytest.mark.parametrize(("suffix", "start"), [
    ("mkv", 90_000_123), ("mkv", LONG_AGO * 1000 + 123), ("ts", 90_000_123), ("mp4", 90_000_123),
])  # fmt: skip
def test_times_count_from_the_first_frame_whatever_the_video_counts_from(
    tmp_path: Path, suffix: str, start: int
) -> None:
    plain, late = tmp_path / f"plain.{suffix}", tmp_path / f"late.{suffix}"
    write_video(plain, steady(6), "mpeg4")
    write_video(late, steady(6), "mpeg4", start=start)
    found = [t for t, _ in frames_of_file(late, 0.3, -1)]
    assert found == [k * 3 / 10 for k in range(20)]
    assert found == [t for t, _ in frames_of_file(plain, 0.3, -1)]
    for k, reached in enumerate(found):
        assert [t for t, _ in frames_of_file(late, 0.3, reached)] == found[k + 1 :]


def test_a_cut_video_that_counts_from_a_late_time_says_how_far_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "cut.mkv"
    write_video(path, steady(12), "mpeg4", start=90_000_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadVideo, match=r"cannot be read beyond \d\.\d s .*1[12]\.\d s"):
        list(frames_of_file(path, 1.0, -1))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=25), st.sampled_from([0.1, 0.3, 1.0]))
def test_of_a_variable_rate_the_first_frame_at_or_after_each_multiple_is_taken(
    shared_folder: Path, gaps: list[int], every: float
) -> None:
    times = [float(t) for t in np.cumsum([0, *gaps]) / 20]
    path = shared_folder / "variable.mkv"
    write_video(path, times, "mpeg4")
    found = [t for t, _ in frames_of_file(path, every, -1)]
    multiples = np.arange(int(times[-1] / every + 1e-6) + 1) * every
    wanted = sorted({min(t for t in times if t >= m - 1e-6) for m in multiples})
    assert found == pytest.approx(wanted, abs=0.002)
    for k, reached in enumerate(found):
        assert [t for t, _ in frames_of_file(path, every, reached)] == found[k + 1 :]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_video_that_was_cut_off_gives_what_it_has_and_says_how_far(
    tmp_path: Path, codec: str
) -> None:
    path = tmp_path / "cut.mkv"
    write_video(path, steady(12), codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = []
    with pytest.raises(BadVideo, match=r"cut\.mkv: cannot be read beyond \d\.\d s .*11\.9 s"):
        for seconds, _ in frames_of_file(path, 1.0, -1):
            found.append(seconds)
    assert 3 <= len(found) < 12 and found == pytest.approx(range(len(found)), abs=0.2)


def test_damage_in_the_middle_costs_the_frames_there_alone(tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    write_video(path, steady(12), "mpeg4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 300] = np.random.default_rng(0).bytes(300)
    path.write_bytes(content)
    found = []
    with pytest.raises(BadVideo, match="damaged"):
        for seconds, frame in frames_of_file(path, 1.0, -1):
            found.append((round(seconds), level_of(frame)))
    assert found[0] == (0, 0) and found[-1][0] == 11 and abs(found[-1][1] - 110) <= 3


@pytest.mark.parametrize(
    "content", [None, b"", b"no video at all", b"\0\0\0\x18ftypmp42" + bytes(500)]
)
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadVideo, match=r"a\.mp4: cannot be read \(") as caught:
        list(frames_of_file(path, 1.0, -1))
    assert "\n" not in str(caught.value)


def test_ffmpeg_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, steady(3))
    content = bytearray(path.read_bytes())
    content[700:900] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(BadVideo):
        list(frames_of_file(path, 1.0, -1))
    assert capfd.readouterr() == ("", "")


# Folders


def put(path: Path, level: int, at: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(flat(level)).save(path)
    os.utime(path, (at, at))
    return path


def levels(seen: Sequence[Seen]) -> list[int]:
    return [level_of(each.frame) for each in seen]


def test_a_growing_folder_gives_each_image_once_in_the_order_of_time_then_name(
    tmp_path: Path,
) -> None:
    camera = FolderCamera(tmp_path, 0)
    put(tmp_path / "z.png", 10, LONG_AGO)
    put(tmp_path / "day/a.png", 20, LONG_AGO + 5)
    put(tmp_path / "day/b.png", 30, LONG_AGO + 5)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".c.png").write_bytes(b"not finished by its copying program")
    put(tmp_path / ".thumbnails/a.png", 99, LONG_AGO + 9)
    seen = all_well(camera, {})
    assert levels(seen) == [10, 20, 30]
    assert seen[1].cursor["folder"]["file"] == "day/a.png"
    assert seen[0].when == "2023-11-14T22:13:20.000+00:00"
    assert all_well(camera, seen[-1].cursor) == []
    put(tmp_path / "0.png", 40, LONG_AGO + 6)
    assert levels(all_well(camera, seen[-1].cursor)) == [40]
    assert levels(all_well(camera, seen[0].cursor)) == [20, 30, 40]


def test_of_images_close_in_time_the_first_is_taken_and_one_older_than_that_never(
    tmp_path: Path,
) -> None:
    camera = FolderCamera(tmp_path, 2.0)
    for k in range(7):
        put(tmp_path / f"{k}.png", 10 * k, LONG_AGO + k * 0.8)
    seen = all_well(camera, {})
    assert levels(seen) == [0, 30, 60]
    put(tmp_path / "late.png", 200, LONG_AGO + 1)
    put(tmp_path / "soon.png", 210, LONG_AGO + 5.5)
    assert all_well(camera, seen[-1].cursor) == []


def put_at(path: Path, level: int, nanoseconds: int) -> None:
    """Write an image with that time of modification, in nanoseconds since 1970."""
    put(path, level, 0)
    os.utime(path, ns=(nanoseconds, nanoseconds))


# Near today, consecutive float64 numbers of nanoseconds are 256 apart: conversion of the base
# time plus 100 rounds down, plus 200 up.
@pytest.mark.parametrize("offset", [0, 100, 127, 128, 129, 200, 255])
def test_images_with_the_same_modification_time_are_all_taken(tmp_path: Path, offset: int) -> None:
    for k in range(4):
        put_at(tmp_path / f"{k}.png", 10 * k, LONG_AGO * 10**9 + offset)
    camera = FolderCamera(tmp_path, 0)
    seen = all_well(camera, {})
    assert levels(seen) == [0, 10, 20, 30]
    for k, each in enumerate(seen):
        assert levels(all_well(camera, each.cursor)) == levels(seen[k + 1 :])


@pytest.mark.parametrize("offset", [0, 100, 127, 128, 129, 200, 255])
@pytest.mark.parametrize("every", [0.1, 0.3, 1.0, 2.0])
def test_the_interval_between_images_is_counted_to_the_nanosecond(
    tmp_path: Path, every: float, offset: int
) -> None:
    first, interval = LONG_AGO * 10**9 + offset, round(every * 10**9)
    times = {10: 0, 20: interval - 1, 30: interval, 40: 2 * interval - 1, 50: 2 * interval}
    for level, time_after_first in times.items():
        put_at(tmp_path / f"{level}.png", level, first + time_after_first)
    assert levels(all_well(FolderCamera(tmp_path, every), {})) == [10, 30, 50]


def test_the_time_of_a_frame_is_never_rounded_up(tmp_path: Path) -> None:
    put_at(tmp_path / "a.png", 10, LONG_AGO * 10**9 + 999_999_999)
    (seen,) = all_well(FolderCamera(tmp_path, 0), {})
    assert seen.when == "2023-11-14T22:13:20.999+00:00"


@pytest.mark.parametrize("offset", [0, 100, 200])
def test_a_file_is_young_and_from_the_future_to_the_nanosecond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    now, limit = LONG_AGO * 10**9 + offset, round(YOUNG * 10**9)
    monkeypatch.setattr(time, "time_ns", lambda: now)
    path = tmp_path / "a.png"
    for modified, fault_expected in (
        (now - limit + 1, False),  # may still be written: no fault yet
        (now - limit, True),
        (now + limit, False),
        (now + limit + 1, True),
    ):
        path.write_bytes(b"no image")
        os.utime(path, ns=(modified, modified))
        _, fault = taken(FolderCamera(tmp_path, 0), {})
        assert (fault is not None) == fault_expected
        assert ("in the future" in str(fault)) == (modified > now + limit)


def test_a_half_written_image_is_waited_for_and_a_broken_old_one_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = FolderCamera(tmp_path, 0)
    for name, seconds in (("a", 50), ("b", 40), ("c", 30)):
        put(tmp_path / f"{name}.png", seconds, 0)
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:60])
    for name, seconds in (("a", 50), ("b", 40), ("c", 30)):
        age(tmp_path / f"{name}.png", seconds)
    first = all_well(camera, {})
    assert levels(first) == [50], "what comes after it waits with it"
    monkeypatch.setattr("search.cameras.sources.YOUNG", 5.0)  # as if so much time had passed
    seen, fault = taken(camera, first[-1].cursor)
    assert levels(seen) == [30]
    assert fault is not None and "b.png" in str(fault) and fault.passed == seen[-1].cursor
    assert all_well(camera, fault.passed) == []
    (tmp_path / "b.png").write_bytes(whole)
    assert levels(all_well(camera, fault.passed)) == [40]


def test_a_broken_image_that_is_the_last_is_told_once_too(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    put(tmp_path / "a.png", 10, LONG_AGO)
    for k in range(3):
        path = tmp_path / f"b{k}.jpg"
        path.write_bytes(jpeg(flat(9))[: 50 * k])
        os.utime(path, (LONG_AGO + 1 + k, LONG_AGO + 1 + k))
    seen, fault = taken(camera, {})
    assert levels(seen) == [10] and fault is not None and fault.passed is not None
    assert "b0.jpg" in str(fault) and "2 more" in str(fault)
    assert all_well(camera, fault.passed) == []


def test_an_image_from_the_future_does_not_hide_those_of_today(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, 0)
    put(tmp_path / "future.png", 10, time.time() + 1e7)
    put(tmp_path / "old.png", 20, LONG_AGO)
    seen, fault = taken(camera, {})
    assert levels(seen) == [20] and "future.png" in str(fault)
    assert fault is not None and fault.passed == seen[-1].cursor


def test_a_folder_that_is_not_there_is_a_fault_until_it_is(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path / "mount", 0)
    seen, fault = taken(camera, {})
    assert seen == [] and "no such folder" in str(fault)
    assert fault is not None and fault.passed is None
    put(tmp_path / "mount/a.png", 10, LONG_AGO)
    assert levels(all_well(camera, {})) == [10]


def test_a_folder_of_many_old_images_is_quick(tmp_path: Path) -> None:
    count = 10_000
    for k in range(count):
        (tmp_path / f"{k:06}.jpg").touch()
    put(tmp_path / "z.png", 10, time.time())
    start = time.monotonic()
    last = (tmp_path / f"{count - 1:06}.jpg").stat().st_mtime_ns
    seen = all_well(FolderCamera(tmp_path, 0), {"folder": {"mtime": last, "file": "y"}})
    assert levels(seen) == [10] and time.monotonic() - start < 2


# Videos as cameras


def test_recordings_are_read_one_after_another_and_one_that_grows_is_read_on(
    tmp_path: Path,
) -> None:
    camera = VideoCamera(str(tmp_path / "*.ts"), 1.0)
    whole = tmp_path / "whole"
    write_video(whole, steady(6), container="mpegts")
    content = whole.read_bytes()
    write_video(tmp_path / "b.ts", steady(3))
    age(tmp_path / "b.ts", 3 * YOUNG)
    first = all_well(camera, {})
    assert len(first) == 3
    growing = tmp_path / "a.ts"
    growing.write_bytes(content[: len(content) // 2 // 188 * 188])
    part = all_well(camera, first[-1].cursor)
    growing.write_bytes(content)
    rest = all_well(camera, part[-1].cursor)
    assert 0 < len(part) < 6
    found = levels(part + rest)
    assert found == pytest.approx([10 * k for k in range(6)], abs=3)
    assert all_well(camera, rest[-1].cursor) == []
    assert levels(all_well(camera, first[0].cursor)) == levels(first[1:] + part + rest)


def test_every_cursor_of_a_recording_gives_the_rest_and_nothing_else(tmp_path: Path) -> None:
    camera = VideoCamera(str(tmp_path / "*.mkv"), 0.5)
    for k, name in enumerate("ab"):
        write_video(tmp_path / f"{name}.mkv", steady(3), "mpeg4")
        age(tmp_path / f"{name}.mkv", 3 * YOUNG - k)
    seen = all_well(camera, {})
    assert len(seen) == 12
    for k, each in enumerate(seen):
        assert levels(all_well(camera, each.cursor)) == levels(seen[k + 1 :])


def test_a_cut_recording_gives_what_it_has_and_a_fault_that_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, after = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write_video(cut, steady(8), "mpeg4")
    write_video(after, steady(2), "mpeg4")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    age(cut, 20)
    age(after, 10)
    camera = VideoCamera(str(tmp_path / "*.mkv"), 1.0)
    young = all_well(camera, {})
    assert len(young) >= 2, "it may still be written: no fault, and what follows waits"
    monkeypatch.setattr("search.cameras.sources.YOUNG", 5.0)  # as if so much time had passed
    seen, fault = taken(camera, {})
    assert levels(seen) == levels(young) + levels(seen[-2:]) and len(seen) == len(young) + 2
    assert "a.mkv" in str(fault) and fault is not None and fault.passed == seen[-1].cursor
    assert all_well(camera, fault.passed) == []
    later, fault = taken(camera, young[-1].cursor)
    assert levels(later) == levels(seen[-2:]) and "a.mkv" in str(fault)


def test_a_broken_last_recording_is_told_once_and_read_when_it_was_mended(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, steady(3))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    camera = VideoCamera(str(path), 1.0)
    assert all_well(camera, {}) == [], "an mp4 cannot be opened until its recorder has ended it"
    age(path, 2 * YOUNG)
    seen, fault = taken(camera, {})
    assert seen == [] and fault is not None and fault.passed
    assert all_well(camera, fault.passed) == []
    path.write_bytes(whole)
    assert len(all_well(camera, fault.passed)) == 3


def test_a_video_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    _, fault = taken(VideoCamera(str(tmp_path / "*.mkv"), 1.0), {})
    assert "there is no such file" in str(fault) and fault is not None and fault.passed is None


# Scenes


def test_scenes_go_on_where_they_ended() -> None:
    camera = SceneCamera(STREET, 3)
    first = all_well(camera, {})
    second = all_well(camera, first[-1].cursor)
    for k, each in enumerate(first + second):
        assert (each.frame == render(STREET, k).image).all()
    assert len(first) == len(second) == 3


def test_the_cursor_of_another_kind_of_camera_counts_as_none(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 10, LONG_AGO)
    write_video(tmp_path / "a.mkv", steady(2), "mpeg4")
    age(tmp_path / "a.mkv", 2 * YOUNG)
    cameras: list[Camera] = [
        FolderCamera(tmp_path, 0),
        VideoCamera(str(tmp_path / "a.mkv"), 1.0),
        SceneCamera(STREET, 2),
    ]
    cursors = [all_well(camera, {})[-1].cursor for camera in cameras]
    for k, camera in enumerate(cameras):
        for other, cursor in enumerate(cursors):
            assert (len(all_well(camera, cursor)) == len(all_well(camera, {}))) == (
                k != other or isinstance(camera, SceneCamera)
            )


# Streams


def transport_stream(seconds: float) -> list[bytes]:
    """Packets of 7 x 188 bytes, as they fit into one of the network."""
    file = io.BytesIO()
    write_video(file, steady(seconds, 25), "mpeg4", "mpegts")
    content = file.getvalue()
    return [content[k : k + 7 * 188] for k in range(0, len(content), 7 * 188)]


class Street(BaseHTTPRequestHandler):
    """/ts and /mjpeg are as long as `frames`; with /stall the connection stays open after it."""

    protocol_version = "HTTP/1.1"
    frames = 60

    def do_GET(self) -> None:
        try:
            if self.path.startswith("/ts"):
                self._begin("video/mp2t")
                self._send(transport_stream(self.frames / 25))
            elif self.path.startswith("/mjpeg"):
                self._begin("multipart/x-mixed-replace; boundary=--frame")
                self._send([self._part(k) for k in range(self.frames)])
            elif self.path == "/text":
                self._begin("text/plain")
                self.wfile.write(b"no video")
            else:
                self.send_error(404 if self.path == "/gone" else 401)
            if self.path.endswith("stall"):
                self.server.over.wait(30)  # type: ignore[attr-defined]
        except OSError:
            pass  # the client has had enough
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, parts: list[bytes]) -> None:
        for part in parts:
            self.wfile.write(part)
            time.sleep(0.02)

    def _part(self, k: int) -> bytes:
        content = jpeg(flat(4 * k))
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
        return head.encode() + content + b"\r\n"


class Rtsp(socketserver.StreamRequestHandler):
    """A camera that speaks RTSP 1.0 over TCP, and sends MPEG-TS in RTP (RFC 2250)."""

    rbufsize = 0
    asks_for = ""
    """How its user is to prove to be `user` with the password `secret` (RFC 7617, RFC 2069)."""

    def handle(self) -> None:
        try:
            while request := self._request():
                method, address, headers = request
                if not self._admitted(method, address, headers.get("Authorization", "")):
                    self._refuse(headers["CSeq"])
                    continue
                self._answer(method, headers["CSeq"])
                if method == "PLAY":
                    return self._play()
        except OSError:
            pass  # the client has had enough

    def _request(self) -> tuple[str, str, dict[str, str]] | None:
        lines = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
        if not lines:
            return None
        method, address, _ = lines[0].split()
        headers = dict(line.split(": ", 1) for line in lines[1:])
        return method, address, headers

    def _admitted(self, method: str, address: str, proof: str) -> bool:
        if self.asks_for == "Digest":
            ours = md5(md5("user:street:secret") + ":once:" + md5(f"{method}:{address}"))
            return f'response="{ours}"' in proof
        return not self.asks_for or proof == f"Basic {b64encode(b'user:secret').decode()}"

    def _refuse(self, number: str) -> None:
        nonce = ', nonce="once"' if self.asks_for == "Digest" else ""
        head = f'WWW-Authenticate: {self.asks_for} realm="street"{nonce}\r\n'
        self.wfile.write(f"RTSP/1.0 401 Unauthorized\r\nCSeq: {number}\r\n{head}\r\n".encode())

    def _answer(self, method: str, number: str) -> None:
        head, body = {
            "OPTIONS": ("Public: DESCRIBE, SETUP, PLAY\r\n", ""),
            "DESCRIBE": (
                "Content-Type: application/sdp\r\n",
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=street\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n",
            ),
            "SETUP": ("Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""),
        }.get(method, ("Session: 1\r\n", ""))
        self.wfile.write(
            f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
            .encode()
        )  # fmt: skip

    def _play(self) -> None:
        for k, part in enumerate(transport_stream(4)):
            header = bytes((0x80, 33)) + k.to_bytes(2, "big") + (k * 1800).to_bytes(4, "big")
            packet = header + b"strt" + part
            self.wfile.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)
            time.sleep(0.02)
        self.server.over.wait(30)  # type: ignore[attr-defined]


class BasicRtsp(Rtsp):
    asks_for = "Basic"


class DigestRtsp(Rtsp):
    asks_for = "Digest"


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@contextmanager
def serving(server: Any) -> Iterator[int]:
    """The port of a server that runs in a thread of its own."""
    server.daemon_threads, server.over = True, threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def street() -> Iterator[str]:
    """The address of a camera that speaks HTTP, with a password in it."""
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Street)) as port:
        yield f"http://user:secret@127.0.0.1:{port}"


def deaf() -> socket.socket:
    """A port that accepts and says nothing."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    return listener


@pytest.mark.parametrize("path", ["/ts", "/mjpeg"])
def test_a_stream_is_sampled_by_the_clock_until_it_ends(street: str, path: str) -> None:
    times = []
    with pytest.raises(BadVideo, match="has ended"):
        for frame in frames_of_stream(street + path, 0.1, PATIENCE):
            times.append(time.monotonic())
            assert frame.shape == (HEIGHT, WIDTH, 3)
    assert 2 <= len(times) <= 14 and min(np.diff(times)) > 0.09


def test_a_slow_reader_gets_the_newest_frame_once_it_is_due(street: str) -> None:
    found = list(islice(frames_of_stream(street + "/mjpeg", 0.4, PATIENCE), 3))
    steps = np.diff([level_of(frame) / 4 for frame in found])
    assert (steps > 8).all(), "at 50 frames a second, 0.4 seconds are some 20 frames"


@pytest.mark.parametrize("path", ["/ts-stall", "/mjpeg-stall"])
def test_a_stream_that_stalls_is_a_fault_within_its_patience(street: str, path: str) -> None:
    start = time.monotonic()
    seen, fault = taken(StreamCamera(street + path, 0.1, PATIENCE), {})
    assert len(seen) >= 2 and "no frame for 1 s" in str(fault)
    assert time.monotonic() - start < 60 * 0.03 + PATIENCE + 2
    assert fault is not None and fault.passed is None


@pytest.mark.parametrize(
    ("path", "told"), [("/gone", "404"), ("/private", "401"), ("/text", "cannot be read")]
)
def test_a_stream_that_is_none_is_a_fault_without_the_password(
    street: str, path: str, told: str
) -> None:
    seen, fault = taken(StreamCamera(street + path, 0.1, PATIENCE), {})
    assert seen == [] and told in str(fault)
    assert "secret" not in str(fault) and "\n" not in str(fault) and "127.0.0.1" in str(fault)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_dead_port_and_a_deaf_one_are_faults_within_the_patience(scheme: str) -> None:
    with deaf() as listener:
        port = listener.getsockname()[1]
        start = time.monotonic()
        _, fault = taken(StreamCamera(f"{scheme}://u:secret@127.0.0.1:{port}/", 1, PATIENCE), {})
        assert "no frame for 1 s" in str(fault) and time.monotonic() - start < PATIENCE + 1
    _, fault = taken(StreamCamera(f"{scheme}://u:secret@127.0.0.1:{port}/", 1, PATIENCE), {})
    assert "Connection refused" in str(fault) and "secret" not in str(fault)


def test_a_camera_that_comes_back_gives_frames_again() -> None:
    with deaf() as listener:
        port = listener.getsockname()[1]
    camera = StreamCamera(f"http://127.0.0.1:{port}/mjpeg", 0.05, PATIENCE)
    assert taken(camera, {})[1] is not None
    with serving(ThreadingHTTPServer(("127.0.0.1", port), Street)):
        assert len(list(islice(camera.look({}), 5))) == 5


@pytest.mark.parametrize("kind", [Rtsp, BasicRtsp, DigestRtsp])
def test_a_camera_that_speaks_rtsp_is_read_and_its_stall_is_told(kind: type[Rtsp]) -> None:
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind)) as port:
        camera = StreamCamera(f"rtsp://user:secret@127.0.0.1:{port}/street", 0.1, PATIENCE)
        seen, fault = taken(camera, {})
    assert len(seen) >= 3 and all(each.frame.shape == (HEIGHT, WIDTH, 3) for each in seen)
    assert "no frame for 1 s" in str(fault) and "secret" not in str(fault)


@pytest.mark.parametrize("kind", [BasicRtsp, DigestRtsp])
def test_a_camera_that_wants_another_password_is_a_fault(kind: type[Rtsp]) -> None:
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind)) as port:
        camera = StreamCamera(f"rtsp://user:guessed@127.0.0.1:{port}/street", 0.1, PATIENCE)
        seen, fault = taken(camera, {})
    assert seen == [] and "401" in str(fault) and "guessed" not in str(fault)


# What the config says


def test_each_kind_of_camera_is_opened(tmp_path: Path) -> None:
    opened = {
        CameraConfig(folder="in").open(tmp_path): FolderCamera(tmp_path / "in", 0.0),
        CameraConfig(folder="in", every=5.0).open(tmp_path): FolderCamera(tmp_path / "in", 5.0),
        CameraConfig(video="a/*.mkv").open(tmp_path): VideoCamera(f"{tmp_path}/a/*.mkv", 1.0),
        CameraConfig(video="/a.mp4", every=2).open(tmp_path): VideoCamera("/a.mp4", 2.0),
        CameraConfig(stream="rtsp://c/1").open(tmp_path): StreamCamera("rtsp://c/1", 1.0, 10.0),
        CameraConfig(stream="http://c", patience=3).open(tmp_path): StreamCamera("http://c", 1, 3),
    }
    assert all(camera == wanted for camera, wanted in opened.items())
    scenes = CameraConfig.model_validate({"scenes": {"seed": 5}, "count": 4}).open(tmp_path)
    assert isinstance(scenes, SceneCamera) and scenes.count == 4 and scenes.settings.seed == 5


@pytest.mark.parametrize(
    ("data", "told"),
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
def test_what_makes_no_camera_is_refused(data: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        CameraConfig.model_validate(data)


# Still scenes


def noisy(frame: Frame, sigma: float, seed: int) -> Frame:
    noise = np.random.default_rng(seed).normal(0, sigma, frame.shape)
    return np.clip(frame + noise, 0, 255).round().astype(np.uint8)


def same(one: Frame, other: Frame) -> bool:
    there, back = (
        (grey_picture(one), grey_picture(other)),
        (grey_picture(other), grey_picture(one)),
    )
    assert near_identical(*there) == near_identical(*back)
    return near_identical(*there)


def big(index: int) -> Frame:
    return np.asarray(Image.fromarray(render(STREET, index).image).resize((640, 480)))


@settings(max_examples=20)
@given(st.integers(0, 30), st.sampled_from([0.0, 1.0, 3.5, 7.0]))
def test_noise_and_jpeg_change_nothing(index: int, sigma: float) -> None:
    frame = big(index % 4)
    assert same(frame, frame)
    again = noisy(frame, sigma, index)
    assert same(noisy(frame, sigma, index + 100), again)
    assert same(again, np.asarray(Image.open(io.BytesIO(jpeg(again))).convert("RGB")))


@settings(max_examples=30)
@given(st.integers(0, 600), st.integers(0, 430), st.integers(0, 3))
def test_a_person_far_away_makes_a_frame_distinct(x: int, y: int, index: int) -> None:
    frame = big(index)
    other = frame.copy()
    body = other[y : y + 36, x : x + 14]
    body[:] = np.where(frame[y : y + 36, x : x + 14].mean() > 127, 40, 215)
    assert not same(frame, other)
    moved = frame.copy()
    moved[y : y + 36, x + 14 : x + 28] = body
    assert not same(other, moved)


def test_the_grey_picture_is_the_mean_of_each_cell() -> None:
    columns, rows = GRID
    levels = np.random.default_rng(0).integers(0, 256, (rows, columns))
    frame = np.kron(levels, np.ones((10, 10)))[:, :, None].repeat(3, axis=2).astype(np.uint8)
    assert (grey_picture(frame) == levels).all()


def test_a_cell_differs_from_just_beyond_the_limit_on() -> None:
    for step in (NOTABLE, NOTABLE + 1):
        other = flat(100)
        other[10:20, 10:20] = 100 + step
        assert same(flat(100), other) == (step == NOTABLE)


# Real cameras


def real(name: str) -> Path:
    path = Path(os.environ.get("MERGE_SEARCH_DATA") or DEFAULT) / "cameras" / name
    if not path.exists():
        pytest.skip(f"no cameras/{name} in the folder that MERGE_SEARCH_DATA names")
    return path


def kept(frames: Iterator[Frame]) -> tuple[int, int]:
    """How many frames there are, and how many are distinct from the last that was."""
    pictures = [grey_picture(frame) for frame in frames]
    last, count = pictures[0], 1
    for picture in pictures[1:]:
        if not near_identical(picture, last):
            last, count = picture, count + 1
    return len(pictures), count


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("pets2009_s2l1_view1/frames", 0.95, 1.0),
        ("street_traffic_ckuhn/frames", 0.6, 0.8),
    ],
)
def test_of_a_real_folder_the_frames_with_movement_are_kept(
    name: str, least: float, most: float
) -> None:
    camera = FolderCamera(real(name), 0)
    total, count = kept(each.frame for each in camera.look({}))
    assert total >= 199 and least <= count / total <= most


@pytest.mark.data
@pytest.mark.parametrize(("every", "least", "most"), [(0.2, 0.4, 0.7), (1.0, 0.6, 0.85)])
def test_of_a_real_video_the_frames_with_movement_are_kept(
    every: float, least: float, most: float
) -> None:
    camera = VideoCamera(str(real("car-detection.mp4")), every)
    total, count = kept(each.frame for each in camera.look({}))
    assert abs(total - 30.1 / every) <= 2 and least <= count / total <= most


@pytest.mark.data
def test_noise_on_a_real_frame_is_no_movement() -> None:
    frame = read_image(min(real("pets2009_s2l1_view1/frames").glob("*.jpg")))
    assert all(same(noisy(frame, 3.5, 2 * k), noisy(frame, 3.5, 2 * k + 1)) for k in range(5))
