"""Frames are kept in memory for the next time, up to a limit, and never shown for others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny import save_noise_image

from search.data.frames import FrameSet, ImageFiles, Sampling, batch_ranges, folder_frames
from search.data.inputs import input_batches as module
from search.data.inputs.fitted_frames import FittedFrame, FittedFrames
from search.data.inputs.input_batches import input_batches
from spaces.inputs import InputSpec

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SMALL, LARGE = InputSpec(32, 32, MEAN, STD), InputSpec(64, 48, MEAN, STD, "crop")
FRAME_BYTES = 3 * 10 * 10


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> FittedFrames:
    fresh = FittedFrames()
    monkeypatch.setattr(module, "KEPT", fresh)
    return fresh


@pytest.fixture
def frames(tmp_path: Path) -> FrameSet:
    for seed in range(5):
        save_noise_image(tmp_path / f"{seed}.png", seed)
    files = folder_frames(tmp_path, Sampling())
    return ImageFiles(files.paths, checked_digests=files.digests)


def inputs_of(frames: FrameSet, **specs: InputSpec) -> list[torch.Tensor]:
    batches = input_batches(frames, batch_ranges(len(frames), 2), specs)
    return [batch.inputs[name] for batch in batches for name in specs]


def test_frames_are_read_once_and_shown_alike(
    frames: ImageFiles, kept: FittedFrames, tmp_path: Path
) -> None:
    first = inputs_of(frames, a=SMALL, b=LARGE)
    for path in tmp_path.iterdir():
        path.unlink()
    for again, before in zip(inputs_of(frames, a=SMALL, b=LARGE), first, strict=True):
        assert torch.equal(again, before)
    assert kept.nbytes > 0


def test_another_input_or_another_content_is_read_anew(
    frames: ImageFiles, kept: FittedFrames, tmp_path: Path
) -> None:
    inputs_of(frames, a=SMALL)
    alone = inputs_of(frames, a=LARGE)
    assert [tuple(values.shape[2:]) for values in alone] == [(64, 48)] * 3
    save_noise_image(tmp_path / "0.png", 77)
    changed = ImageFiles(frames.paths, checked_digests=ImageFiles(frames.paths).digests)
    before, after = inputs_of(frames, a=LARGE), inputs_of(changed, a=LARGE)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_files_that_were_not_hashed_are_read_every_time(
    frames: ImageFiles, kept: FittedFrames
) -> None:
    inputs_of(ImageFiles(frames.paths), a=SMALL)
    assert kept.nbytes == 0


def frame(number: int) -> FittedFrame:
    return FittedFrame({SMALL: torch.full((3, 10, 10), number, dtype=torch.uint8)}, (10, 10))


def test_the_frames_read_last_are_kept_within_the_limit() -> None:
    kept, read = FittedFrames(3 * FRAME_BYTES), list[int]()

    def read_frame(number: int) -> FittedFrame:
        read.append(number)
        return frame(number)

    def get(number: int) -> FittedFrame:
        return kept.get(number, lambda: read_frame(number))

    for number in (0, 1, 2, 0, 3, 0, 1):  # 3 takes the place of 1, the one not read for longest
        assert int(get(number).by_spec[SMALL][0, 0, 0]) == number
        assert kept.nbytes <= 3 * FRAME_BYTES
    assert read == [0, 1, 2, 3, 1]


def test_a_frame_larger_than_the_limit_is_not_kept() -> None:
    kept = FittedFrames(FRAME_BYTES - 1)
    assert int(kept.get("large", lambda: frame(4)).by_spec[SMALL][0, 0, 0]) == 4
    assert kept.nbytes == 0


def test_a_part_of_a_larger_frame_counts_with_all_that_it_keeps_in_memory() -> None:
    whole = torch.zeros((3, 100, 100), dtype=torch.uint8)
    assert FittedFrame({SMALL: whole[:, :10, :10]}, (100, 100)).nbytes == whole.nbytes


def test_threads_get_the_frame_of_their_key() -> None:
    kept = FittedFrames(4 * FRAME_BYTES)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda k: (k % 7, kept.get(k % 7, lambda: frame(k % 7))), range(400))
        assert all(int(got.by_spec[SMALL][0, 0, 0]) == number for number, got in found)
