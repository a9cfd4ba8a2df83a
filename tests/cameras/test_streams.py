"""Network streams over HTTP and RTSP: sampled by a clock, and a fault after some silence."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from camera_files import HEIGHT, WIDTH, TickingClock, level_of, poll
from stream_servers import (
    FRAMES,
    LEVEL_STEP,
    BasicRtspCamera,
    DigestRtspCamera,
    RtspCamera,
    SilentCamera,
    closed_port,
    http_camera,
    serving,
    tcp_camera,
)

from search.cameras.sources import StreamCamera
from search.cameras.video import BadVideo, frames_of_stream, newest_when_due

PATIENCE = 1.25
"""Patience with streams that stall, in seconds."""
NO_LIMIT = 120.0
"""Patience with streams that do not stall, in seconds: enough for any busy machine."""
EVERY_FRAME = 1e-9
"""Interval in seconds that is shorter than the time between any two frames."""


@pytest.fixture
def street() -> Iterator[str]:
    """The URL of an HTTP camera, with a password in it."""
    with serving(http_camera()) as port:
        yield f"http://user:secret@127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("every", "expected"),
    [(0.1, [0, 4, 8, 12, 16, 20]), (0.4, [0, 13]), (1e-9, list(range(24))), (9.0, [0])],
)
def test_the_newest_frame_is_sampled_when_it_is_due(every: float, expected: list[int]) -> None:
    clock = TickingClock()

    def arriving() -> Iterator[int]:
        for k in range(24):
            clock.now = k / 32
            yield k

    assert list(newest_when_due(arriving(), every, clock)) == expected


def test_a_slow_reader_gets_the_next_frame_that_arrives() -> None:
    clock, arrival_times = TickingClock(), []

    def arriving() -> Iterator[float]:
        for _ in range(24):
            yield clock.now
            clock.now += 0.125

    for arrival_time in newest_when_due(arriving(), 0.25, clock):
        arrival_times.append(arrival_time)
        clock.now += 0.5  # reading takes longer than the interval
    assert arrival_times == [0.625 * k for k in range(24)]


@pytest.mark.parametrize("path", ["/ts", "/mjpeg"])
def test_a_stream_is_sampled_by_the_clock_until_it_ends(street: str, path: str) -> None:
    clock, times, levels = TickingClock(1 / 64), [], []
    with pytest.raises(BadVideo, match="ended; the stream of a camera should never end"):
        for frame in frames_of_stream(street + path, 0.25, NO_LIMIT, clock):
            times.append(clock.now)
            levels.append(level_of(frame))
            assert frame.shape == (HEIGHT, WIDTH, 3)
    assert 2 <= len(times) < FRAMES / 2 and min(np.diff(times)) >= 0.25
    assert levels == sorted(levels)


def test_frames_that_are_not_due_are_skipped_not_queued(street: str) -> None:
    clock = TickingClock(1 / 64)
    frames = list(islice(frames_of_stream(street + "/mjpeg", 0.5, NO_LIMIT, clock), 3))
    steps = np.diff([level_of(frame) / LEVEL_STEP for frame in frames])
    assert (steps > 5).all(), "a frame needs a few readings of the clock, an interval 32"


@pytest.mark.parametrize("path", ["/ts-stall", "/mjpeg-stall"])
def test_a_stream_that_stalls_is_a_fault_after_the_patience(street: str, path: str) -> None:
    frames, fault = poll(StreamCamera(street + path, EVERY_FRAME, PATIENCE), {})
    assert len(frames) >= 2 and "no frame for 1.25 s" in str(fault)
    assert fault is not None and fault.resume_from is None


@pytest.mark.parametrize(
    ("path", "reason"), [("/gone", "404"), ("/private", "401"), ("/text", "cannot be read")]
)
def test_the_fault_of_an_unreadable_stream_hides_the_password(
    street: str, path: str, reason: str
) -> None:
    frames, fault = poll(StreamCamera(street + path, 0.1, NO_LIMIT), {})
    assert frames == [] and reason in str(fault)
    assert "secret" not in str(fault) and "\n" not in str(fault) and "127.0.0.1" in str(fault)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_port_that_never_answers_is_a_fault_after_the_patience(scheme: str) -> None:
    with serving(tcp_camera(SilentCamera)) as port:
        _, fault = poll(StreamCamera(f"{scheme}://u:secret@127.0.0.1:{port}/", 1, 0.5), {})
    assert "no frame for 0.5 s" in str(fault)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_closed_port_is_a_fault(scheme: str) -> None:
    url = f"{scheme}://u:secret@127.0.0.1:{closed_port()}/"
    _, fault = poll(StreamCamera(url, 1, NO_LIMIT), {})
    assert "Connection refused" in str(fault) and "secret" not in str(fault)


def test_a_camera_gives_frames_again_once_it_is_back() -> None:
    port = closed_port()
    camera = StreamCamera(f"http://127.0.0.1:{port}/mjpeg", EVERY_FRAME, NO_LIMIT)
    assert poll(camera, {})[1] is not None
    with serving(http_camera(port)):
        assert len(list(islice(camera.poll({}), 5))) == 5


@pytest.mark.parametrize("kind", [RtspCamera, BasicRtspCamera, DigestRtspCamera])
def test_an_rtsp_camera_is_read_and_its_stall_is_a_fault(kind: type[RtspCamera]) -> None:
    with serving(tcp_camera(kind)) as port:
        url = f"rtsp://user:secret@127.0.0.1:{port}/street"
        frames, fault = poll(StreamCamera(url, EVERY_FRAME, PATIENCE), {})
    assert len(frames) >= 3
    assert all(camera_frame.frame.shape == (HEIGHT, WIDTH, 3) for camera_frame in frames)
    assert "no frame for 1.25 s" in str(fault) and "secret" not in str(fault)


@pytest.mark.parametrize("kind", [BasicRtspCamera, DigestRtspCamera])
def test_a_wrong_password_is_a_fault(kind: type[RtspCamera]) -> None:
    with serving(tcp_camera(kind)) as port:
        url = f"rtsp://user:guessed@127.0.0.1:{port}/street"
        frames, fault = poll(StreamCamera(url, 0.1, NO_LIMIT), {})
    assert frames == [] and "401" in str(fault) and "guessed" not in str(fault)
