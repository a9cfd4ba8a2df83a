"""Images and videos such as cameras write, and a clock to set their ages by."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from search.cameras.recordings import Recordings
from search.cameras.sources import Camera, CameraFault, CameraFrame, Cursor
from search.data.images import read_image
from spaces.inputs import Frame

WIDTH, HEIGHT = 96, 72
LONG_AGO = 1_700_000_000
DEFAULT_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("MERGE_SEARCH_DATA") or DEFAULT_DATA) / "cameras"


def flat(level: int) -> Frame:
    """Return a uniform grey frame."""
    return np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)


def level_of(frame: Frame) -> int:
    return round(float(frame.mean()))


def levels(frames: Sequence[CameraFrame]) -> list[int]:
    return [level_of(taken.frame) for taken in frames]


def jpeg(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


def put(path: Path, level: int, at: float = LONG_AGO) -> Path:
    """Write a uniform image with a modification time in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(flat(level)).save(path)
    os.utime(path, (at, at))
    return path


def put_at(path: Path, level: int, nanoseconds: int) -> None:
    """Write a uniform image with a modification time in nanoseconds."""
    put(path, level)
    os.utime(path, ns=(nanoseconds, nanoseconds))


def write_video(
    target: Path | io.BytesIO,
    times: Sequence[float],
    codec: str = "libx264",
    container: str | None = None,
    start: int = 0,
) -> None:
    """Write a video whose frame at `t` seconds has grey level `10 * t`, with a key frame every 7.

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
    """Return the times of frames at a constant rate."""
    return [k / rate for k in range(round(seconds * rate))]


def poll(camera: Camera, cursor: Cursor) -> tuple[list[CameraFrame], CameraFault | None]:
    """Return all frames of a poll and the fault at its end. The cursor goes through JSON."""
    frames: list[CameraFrame] = []
    try:
        for taken in camera.poll(json.loads(json.dumps(cursor))):
            frames.append(taken)
    except CameraFault as fault:
        return frames, fault
    return frames, None


def frames_after(camera: Camera, cursor: Cursor) -> list[CameraFrame]:
    """Return all frames of a poll that must end without a fault."""
    frames, fault = poll(camera, cursor)
    assert fault is None, fault
    return frames


class SetClock:
    """A stand-in for the system's clock that stands still until it is advanced."""

    def __init__(self, seconds: float) -> None:
        self.nanoseconds = round(seconds * 1e9)

    def time_ns(self) -> int:
        return self.nanoseconds

    def advance(self, seconds: float) -> None:
        self.nanoseconds += round(seconds * 1e9)

    def age(self, path: Path, seconds: float) -> None:
        """Set a file's modification time to so many seconds ago."""
        modified = self.nanoseconds - round(seconds * 1e9)
        os.utime(path, ns=(modified, modified))


class TickingClock:
    """A monotonic clock that advances by a fixed step with every reading."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self._step = 0.0, step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


def taken(level: int, at: str = "2026-05-04T12:00:00.250+00:00") -> CameraFrame:
    """Return a uniform frame as a camera yields it."""
    return CameraFrame(np.full((36, 48, 3), level, dtype=np.uint8), at, {"at": level})


def image_level(path: Path) -> int:
    return level_of(read_image(path))


def stored_frames(recordings: Recordings, folder: Path) -> list[Path]:
    """Return all stored frames of one camera, oldest first."""
    folders = [recordings.window_folder(number) for number in recordings.window_numbers()]
    return [path for each in (*folders, folder / "open") for path in sorted(each.glob("*.jpg"))]


def recordings_in(folder: Path, *names: str) -> dict[str, Recordings]:
    return {name: Recordings(folder / name) for name in names}


def real_camera(name: str) -> Path:
    """Return a file or folder of a real camera; skip the test if the data is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no cameras/{name} in the folder that MERGE_SEARCH_DATA names")
    return path


def second_by_second(source: Path, target: Path) -> Path:
    """Copy the images of a folder with modification times a second apart, in order of name.

    The times of downloaded images depend on how they were unpacked.
    """
    target.mkdir(parents=True)
    paths = sorted(path for path in source.rglob("*") if path.suffix in (".jpg", ".png"))
    for k, path in enumerate(paths):
        copy = target / path.name
        copy.write_bytes(path.read_bytes())
        os.utime(copy, (LONG_AGO + k,) * 2)
    return target
