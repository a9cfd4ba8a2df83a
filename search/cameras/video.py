"""Frames of video files and network streams. The only door to PyAV."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from search.utils.redact import host_only
from spaces.errors import MergeSearchError
from spaces.inputs import Frame

END_TOLERANCE = 1.0
"""Seconds, beyond its longest gap, that a complete video may stop before its declared end."""
TIME_TOLERANCE = 1e-6
"""Tolerance in seconds: 3 * 0.1 is later than 0.3."""

Monotonic = Callable[[], float]
"""A clock that never goes back; returns seconds."""
Item = TypeVar("Item")

av.logging.set_level(None)  # FFmpeg would print a line for every broken packet


class BadVideo(MergeSearchError):
    """A video file or stream cannot be read, or not to its end."""


def frames_of_file(path: Path, every: float, after: float) -> Iterator[tuple[float, Frame]]:
    """Yield sampled frames of a video file in order of time.

    Each item is the frame's time in seconds since the first frame, and the frame as uint8
    (H, W, 3) RGB. The first frame at or after each multiple of `every` seconds is taken, by the
    times that the video gives its frames. Only frames later than `after` seconds are taken; pass
    -1 to start from the beginning.

    Raises:
        BadVideo: the file is damaged or cut off; raised after all frames that can be decoded.
    """
    reader = _FileReader()
    due = _next_multiple(after, every)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for seconds, frame in reader.frames(container, after):
                if seconds >= due - TIME_TOLERANCE and seconds > after:
                    due = _next_multiple(seconds, every)
                    yield seconds, _pixels(frame)
    except (av.FFmpegError, OSError) as error:
        reader.note_damage(error.strerror or str(error))
    if reader.damage:
        how_far = f" beyond {reader.reached:.1f} s" if reader.reached > 0 else ""
        raise BadVideo(
            f"video {path}: cannot be read{how_far} ({reader.damage}); "
            "copy it again from its source"
        )


def frames_of_stream(
    url: str, every: float, patience: float, clock: Monotonic = time.monotonic
) -> Iterator[Frame]:
    """Yield the newest frame of an RTSP or HTTP stream every `every` seconds.

    Frames are uint8 (H, W, 3) RGB. Every frame is decoded on arrival, so that none ages in a
    buffer. `clock` decides which frames are due; network timeouts use the system's clock.

    Raises:
        BadVideo: the stream cannot be opened, ends, or gives no frame for `patience` seconds.
    """
    reader = _StreamReader(patience, clock)
    options = {"rtsp_transport": "tcp"} if url.startswith("rtsp") else {}
    try:
        with av.open(
            url, options=options, timeout=(patience, patience), metadata_errors="replace"
        ) as container:
            for frame in newest_when_due(reader.frames(container), every, clock):
                yield _pixels(frame)
        reason = reader.reason_for_end(None)
    except (av.FFmpegError, OSError) as error:
        reason = reader.reason_for_end(error)
    # not from the error, whose text holds the password
    raise BadVideo(f"stream {host_only(url)}: {reason}")


def newest_when_due(items: Iterable[Item], every: float, clock: Monotonic) -> Iterator[Item]:
    """Yield the first item, then the first to arrive `every` seconds or more after the last one
    was yielded."""
    due = -math.inf
    for item in items:
        now = clock()
        if now >= due:
            due = now + every
            yield item


class _FileReader:
    """Decode a file; keep how far it was decoded and the first damage found."""

    def __init__(self) -> None:
        self.reached = 0.0
        """Seconds from the first frame to the last one decoded."""
        self.damage = ""
        self._longest_gap = 0.0

    def note_damage(self, description: str) -> None:
        self.damage = self.damage or description

    def frames(
        self, container: InputContainer, after: float
    ) -> Iterator[tuple[float, VideoFrame]]:
        """Yield intact frames and their seconds since the first frame.

        Starts at or before `after`.
        """
        if not container.streams.video:
            return self.note_damage("it holds no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        start = stream.start_time or 0
        for packet in _packets_from(container, stream, start, after):
            if packet.is_corrupt:
                self.note_damage("a frame is incomplete")
            for frame in self._decode(packet):
                if frame.is_corrupt:
                    self.note_damage("a frame is incomplete")
                elif frame.pts is not None:
                    seconds = _seconds(frame.pts - start, frame.time_base)
                    self._advance(seconds)
                    yield seconds, frame
        self._check_end(container, stream)

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Decode a packet; damage costs its own frames, not those that follow."""
        try:
            return packet.decode()
        except av.FFmpegError as error:
            self.note_damage(error.strerror or str(error))
            return []

    def _advance(self, seconds: float) -> None:
        if self.reached:
            self._longest_gap = max(self._longest_gap, seconds - self.reached)
        self.reached = max(self.reached, seconds)

    def _check_end(self, container: InputContainer, stream: VideoStream) -> None:
        """Compare the last frame with the declared end: nothing else shows that a Matroska file
        was cut off."""
        if stream.duration is not None and stream.time_base is not None:
            declared = float(stream.duration * stream.time_base)
        else:
            declared = (container.duration or 0) / av.time_base
            if "matroska" in container.format.name:  # declares its end, not its length
                declared -= _seconds(stream.start_time or 0, stream.time_base)
        if declared - self.reached > END_TOLERANCE + self._longest_gap:
            self.note_damage(f"it ends there, and not at {declared:.1f} s as its header says")


def _packets_from(
    container: InputContainer, stream: VideoStream, start: int, after: float
) -> Iterator[Packet[VideoStream]]:
    """Yield packets from the last key frame at or before `after` seconds: older ones need no
    decoding.

    Reads instead of seeking, which in some containers lands behind the key frame.
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


class _StreamReader:
    """Decode a stream as it arrives; know why it ended."""

    def __init__(self, patience: float, clock: Monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._last_frame_at = clock()
        self._had_frames = False

    def frames(self, container: InputContainer) -> Iterator[VideoFrame]:
        """Yield intact frames.

        PyAV's own timeout is for a packet of any kind, sound included; this one is for frames.

        Raises:
            TimeoutError: no frame arrived within the patience.
        """
        for packet in container.demux():
            for frame in _intact_frames(packet):
                yield frame
                self._last_frame_at, self._had_frames = self._clock(), True
            if self._timed_out:
                raise TimeoutError

    def reason_for_end(self, error: av.FFmpegError | OSError | None) -> str:
        """Return why there are no more frames; FFmpeg's own account depends on where it waited."""
        if self._timed_out or isinstance(error, av.ExitError | TimeoutError):
            return (
                f"no frame for {self._patience:g} s; check that the camera is on and its address "
                "is right"
            )
        if self._had_frames:
            return "ended; the stream of a camera should never end"
        reason = error.strerror if error else "it holds no pictures"
        return f"cannot be read ({reason}); check that the camera is on and its address is right"

    @property
    def _timed_out(self) -> bool:
        return self._clock() - self._last_frame_at >= self._patience


def _intact_frames(packet: Packet[Any]) -> list[VideoFrame]:
    """Return a packet's frames without those that lost data; none for a packet of sound."""
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
    """Return the first multiple of `every` later than `seconds`; 0 for negative `seconds`."""
    return 0.0 if seconds < 0 else (math.floor((seconds + TIME_TOLERANCE) / every) + 1) * every


def _pixels(frame: VideoFrame) -> Frame:
    """Return a frame's pixels, turned and mirrored as its display matrix says."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    return np.ascontiguousarray(_displayed(pixels, np.frombuffer(matrix, dtype=np.int32)))


def _displayed(pixels: Frame, matrix: NDArray[np.int32]) -> Frame:
    """Apply a display matrix a, b, u, c, d, v, ...: x, y is shown at ax + cy, bx + dy.

    Only right angles occur in cameras; a matrix of another angle is ignored.

    Source: the Track Header Box of ISO/IEC 14496-12.
    """
    a, b, c, d = (int(matrix[k]) for k in (0, 1, 3, 4))
    if (a, d) == (0, 0):
        pixels, (a, d) = pixels.transpose(1, 0, 2), (c, b)
    elif (b, c) != (0, 0):
        return pixels
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
