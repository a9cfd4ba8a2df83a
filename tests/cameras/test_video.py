"""Video files: frames sampled by time, resumed after a time, and damage reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from camera_files import HEIGHT, LONG_AGO, WIDTH, level_of, steady, write_video
from hypothesis import given
from hypothesis import strategies as st

from search.cameras.video import BadVideo, frames_of_file
from spaces.inputs import Frame


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


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
    frames = list(frames_of_file(path, 1.0, after))
    assert [t for t, _ in frames] == pytest.approx([t for t in range(6) if t > after], abs=0.002)
    for t, frame in frames:
        assert frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8
        assert abs(level_of(frame) - 10 * t) < 5


@pytest.mark.parametrize(("suffix", "start"), [
    ("mkv", 90_000_123), ("mkv", LONG_AGO * 1000 + 123), ("ts", 90_000_123), ("mp4", 90_000_123),
])  # fmt: skip
def test_times_count_from_the_first_frame_wherever_the_video_starts(
    tmp_path: Path, suffix: str, start: int
) -> None:
    plain, late = tmp_path / f"plain.{suffix}", tmp_path / f"late.{suffix}"
    write_video(plain, steady(6), "mpeg4")
    write_video(late, steady(6), "mpeg4", start=start)
    times = [t for t, _ in frames_of_file(late, 0.3, -1)]
    assert times == [k * 3 / 10 for k in range(20)]
    assert times == [t for t, _ in frames_of_file(plain, 0.3, -1)]
    for k, reached in enumerate(times):
        assert [t for t, _ in frames_of_file(late, 0.3, reached)] == times[k + 1 :]


def test_a_cut_off_video_with_a_late_start_says_how_far_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "cut.mkv"
    write_video(path, steady(12), "mpeg4", start=90_000_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadVideo, match=r"cannot be read beyond \d\.\d s .*1[12]\.\d s"):
        list(frames_of_file(path, 1.0, -1))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=25), st.sampled_from([0.1, 0.3, 1.0]))
def test_at_a_variable_rate_the_first_frame_at_or_after_each_multiple_is_taken(
    shared_folder: Path, gaps: list[int], every: float
) -> None:
    times = [float(t) for t in np.cumsum([0, *gaps]) / 20]
    path = shared_folder / "variable.mkv"
    write_video(path, times, "mpeg4")
    times = [t for t, _ in frames_of_file(path, every, -1)]
    multiples = np.arange(int(times[-1] / every + 1e-6) + 1) * every
    expected = sorted({min(t for t in times if t >= m - 1e-6) for m in multiples})
    assert times == pytest.approx(expected, abs=0.002)
    for k, reached in enumerate(times):
        assert [t for t, _ in frames_of_file(path, every, reached)] == times[k + 1 :]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_cut_off_video_gives_its_frames_and_says_how_far_it_goes(
    tmp_path: Path, codec: str
) -> None:
    path = tmp_path / "cut.mkv"
    write_video(path, steady(12), codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    times = []
    with pytest.raises(BadVideo, match=r"cut\.mkv: cannot be read beyond \d\.\d s .*11\.9 s"):
        for seconds, _ in frames_of_file(path, 1.0, -1):
            times.append(seconds)
    assert 3 <= len(times) < 12 and times == pytest.approx(range(len(times)), abs=0.2)


def test_damage_in_the_middle_costs_only_the_frames_there(tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    write_video(path, steady(12), "mpeg4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 300] = np.random.default_rng(0).bytes(300)
    path.write_bytes(content)
    times = []
    with pytest.raises(BadVideo, match="damaged"):
        for seconds, frame in frames_of_file(path, 1.0, -1):
            times.append((round(seconds), level_of(frame)))
    assert times[0] == (0, 0) and times[-1][0] == 11 and abs(times[-1][1] - 110) <= 3


@pytest.mark.parametrize(
    "content", [None, b"", b"no video at all", b"\0\0\0\x18ftypmp42" + bytes(500)]
)
def test_a_file_that_is_no_video_is_named(tmp_path: Path, content: bytes | None) -> None:
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


def write_displayed(path: Path, pixels: Frame, quarters: int, mirrored: bool) -> None:
    """Write a video that is to be turned to the left and then mirrored."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=5)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this version of PyAV cannot write a rotation")
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
        stream.set_display_rotation(90 * quarters, hflip=mirrored)
        for _ in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_video_is_read_upright_whichever_way_the_camera_was_held(
    tmp_path: Path, quarters: int, mirrored: bool, suffix: str
) -> None:
    stored = np.zeros((48, 64, 3), dtype=np.uint8)
    stored[:24, :32], stored[24:, :32], stored[:24, 32:] = 240, 160, 80
    write_displayed(tmp_path / f"a.{suffix}", stored, quarters, mirrored)
    upright = np.rot90(stored, quarters)
    upright = upright[:, ::-1] if mirrored else upright
    (_, frame), *_ = frames_of_file(tmp_path / f"a.{suffix}", 1.0, -1)
    assert frame.shape == upright.shape and frame.flags.c_contiguous
    assert np.abs(frame.astype(int) - upright).mean() < 6
