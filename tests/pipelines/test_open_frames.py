"""What is wrong with image files is printed before any network runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import (
    Weights,
    capture_reporter,
    config_data,
    save_noise_image,
    with_changes,
    write_config,
)

from search.config.loading import load_config
from search.data.frames import BadFrames, FrameSet
from search.pipelines.prepare import open_frames


def opened(folder: Path, data: dict[str, Any], **changes: Any) -> tuple[FrameSet, str]:
    """Return the frames of a config, and what is printed about them."""
    frames = {"folder": str(folder / "in"), **changes}
    config = load_config(write_config(folder, with_changes(data, {"frames": frames})))
    captured = capture_reporter()
    return open_frames(config, captured.reporter), captured.text


@pytest.fixture
def data(weights: Weights, tmp_path: Path) -> dict[str, Any]:
    """Return a config whose folder of 150 frames holds a damaged image and other files."""
    for k in range(150):
        save_noise_image(tmp_path / f"in/{k:03}.png", seed=k)
    (tmp_path / "in/075.png").write_bytes(b"\x89PNG")
    (tmp_path / "in/notes.txt").write_text("no image")
    (tmp_path / "in/._000.png").write_bytes(b"no image")
    return config_data(weights)


def test_one_damaged_image_in_a_hundred_is_left_out_with_a_warning(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    frames, text = opened(tmp_path, data)
    assert len(frames) == 149
    assert "1 of 150 images cannot be read" in text and "075.png" in text
    assert "1 file of another type left out: .txt 1" in text


def test_with_unreadable_0_one_damaged_image_is_refused(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    with pytest.raises(BadFrames, match=r"075\.png .*frames\.unreadable, 0:"):
        opened(tmp_path, data, unreadable=0.0)


def test_damaged_images_that_are_not_sampled_do_not_matter(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    frames, text = opened(tmp_path, data, unreadable=0.0, stride=2)
    assert len(frames) == 75 and "cannot be read" not in text
