"""Frames of video files and of network streams: the only door to PyAV."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError
from spaces.inputs import Frame

MISSING = 1.0
"""Seconds, beyond its longest gap, that a whole video may stop before its declared end."""
ROUNDING = 1e-6
"""Seconds: 3 * 0.1 is later than 0.3."""

av.logging.set_level(None)  # FFmpeg would print a line for every broken packet


class BadVideo(MergeSearchError):
    """A video file or a stream that cannot be read, or not to its end."""


def frames_of_file(path: Path, every: float, after: float) -> Iterator[tuple[float, Frame]]:
    """Seconds since the video's begin and uint8 (H, W, 3) RGB frames, in order of time.

    Taken is the first frame at or after each multiple of `every` seconds, by the times that the
    video itself gives its frames. `after` is the time of the frame to go on from: only later
    ones are taken, and all with -1.

    Raises:
        BadVideo: after all frames that could be decoded, when the file should have had more.
    """
    reading = _Reading()
    due = _next_multiple(after, every)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for seconds, frame in reading.frames(container, after):
                if seconds >= due - ROUNDING and seconds > after:
                    due = _next_multiple(seconds, every)
                    yield seconds, _pixels(frame)
    except (av.FFmpegError, OSError) as error:
        reading.damaged(error.strerror or str(error))
    if reading.damage:
        how_far = f" beyond {reading.reached:.1f} s" if reading.reached > 0 else ""
        raise BadVideo(
            f"video {path}: cannot be read{how_far} ({reading.damage}); "
            "put a whole video in its place"
        )


def frames_of_stream(url: str, every: float, patience: float) -> Iterator[Frame]:
    """The newest uint8 (H, W, 3) RGB frame of an RTSP or HTTP stream, every so many seconds.

    Every frame is decoded as it comes, so that none waits in a buffer and grows old.

    Raises:
        BadVideo: the stream cannot be opened, ends, or gives no frame for `patience` seconds.
    """
    live = _Live(patience)
    options = {"rtsp_transport": "tcp"} if url.startswith("rtsp") else {}
    due = -math.inf
    try:
        with av.open(
            url, options=options, timeout=(patience, patience), metadata_errors="replace"
        ) as container:
            for frame in live.frames(container):
                if time.monotonic() >= due:
                    due = time.monotonic() + every
                    yield _pixels(frame)
        said = live.end(None)
    except (av.FFmpegError, OSError) as error:
        said = live.end(error)
    # not from the error, whose text holds the password
    raise BadVideo(f"stream {without_credentials(url)}: {said}")


class _Reading:
    """How far a file was decoded, and the first thing that was found wrong with it."""

    def __init__(self) -> None:
        self.reached = 0.0
        self.damage = ""
        self._longest_gap = 0.0

    def damaged(self, how: str) -> None:
        self.damage = self.damage or how

    def frames(
        self, container: InputContainer, after: float
    ) -> Iterator[tuple[float, VideoFrame]]:
        """Whole frames with their seconds since the begin, from one at or before `after` on."""
        if not container.streams.video:
            return self.damaged("it holds no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        start = stream.start_time or 0
        for packet in _packets_from(container, stream, start, after):
            if packet.is_corrupt:
                self.damaged("a frame is incomplete")
            for frame in self._decoded(packet):
                if frame.is_corrupt:
                    self.damaged("a frame is incomplete")
                elif frame.pts is not None:
                    seconds = _seconds(frame.pts - start, frame.time_base)
                    self._move(seconds)
                    yield seconds, frame
        self._check_end(container, stream)

    def _decoded(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """A damaged packet costs its own frames, and not those that follow."""
        try:
            return packet.decode()
        except av.FFmpegError as error:
            self.damaged(error.strerror or str(error))
            return []

    def _move(self, seconds: float) -> None:
        if self.reached:
            self._longest_gap = max(self._longest_gap, seconds - self.reached)
        self.reached = max(self.reached, seconds)

    def _check_end(self, container: InputContainer, stream: VideoStream) -> None:
        """Of a Matroska file that was cut off, nothing tells but the end that is not reached."""
        if stream.duration is not None and stream.time_base is not None:
            declared = float(stream.duration * stream.time_base)
        else:
            declared = (container.duration or 0) / av.time_base
            if "matroska" in container.format.name:  # declares its end, not its length
                declared -= _seconds(stream.start_time or 0, stream.time_base)
        if declared - self.reached > MISSING + self._longest_gap:
            self.damaged(f"it ends there, and not at {declared:.1f} s as its header says")


def _packets_from(
    container: InputContainer, stream: VideoStream, start: int, after: float
) -> Iterator[Packet[VideoStream]]:
    """The packets from the last key frame at or before a time: what is old is not decoded.

    Not by seeking, which in some containers lands behind the key frame.
    """
    waiting: list[Packet[VideoStream]] = []
    packets = container.demux(stream)
    for packet in packets:
        old = packet.pts is not None and _seconds(packet.pts - start, packet.time_base) <= after
        if old and packet.is_keyframe:
            waiting.clear()
        waiting.append(packet)
        if not old:
            break
    yield from waiting
    yield from packets


class _Live:
    """A stream's frames as they come, and how it ended."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._last = time.monotonic()
        self._any = False

    def frames(self, container: InputContainer) -> Iterator[VideoFrame]:
        """Whole frames. PyAV's own timeout is for a packet, and sound comes in packets, too.

        Raises:
            TimeoutError: there was none for too long.
        """
        for packet in container.demux():
            for frame in _whole(packet):
                yield frame
                self._last, self._any = time.monotonic(), True
            if self._late:
                raise TimeoutError

    def end(self, error: av.FFmpegError | OSError | None) -> str:
        """Why there are no more frames; what FFmpeg says of it depends on where it waited."""
        if self._late or isinstance(error, av.ExitError | TimeoutError):
            return f"no frame for {self._patience:g} s; is the camera on, and its address right?"
        if self._any:
            return "has ended; the stream of a camera should go on for ever"
        reason = error.strerror if error else "it holds no pictures"
        return f"cannot be read ({reason}); is the camera on, and its address right?"

    @property
    def _late(self) -> bool:
        return time.monotonic() - self._last >= self._patience


def _whole(packet: Packet[Any]) -> list[VideoFrame]:
    """The frames of a packet: none of sound, and none of which the network has lost a part."""
    if not isinstance(packet.stream, VideoStream):
        return []
    try:
        return [frame for frame in packet.decode() if not frame.is_corrupt]
    except av.InvalidDataError:
        return []


def _seconds(ticks: int, time_base: Fraction | None) -> float:
    """Convert a difference of presentation times to seconds.

    Subtract before converting: as float64, presentation times that count from 1970 are a quarter
    of a microsecond apart.
    """
    return float(ticks * (time_base or 0))


def _next_multiple(seconds: float, every: float) -> float:
    """The first multiple of `every` that is later."""
    return 0.0 if seconds < 0 else (math.floor((seconds + ROUNDING) / every) + 1) * every


def _pixels(frame: VideoFrame) -> Frame:
    return np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
