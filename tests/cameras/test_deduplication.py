"""Near-identical frames: noise and compression are no change, a person far away is one."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from camera_files import flat, jpeg, real_camera, second_by_second
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import STREET

from search.cameras.deduplication import (
    GRID,
    TOLERANCE,
    describe_repetition,
    grey_picture,
    near_identical,
)
from search.cameras.sources import FolderCamera, VideoCamera
from search.data.frames import ImageFiles, RenderedScenes
from search.data.images import read_image
from search.data.synthetic.scenes import render
from spaces.inputs import Frame


def noisy(frame: Frame, sigma: float, seed: int) -> Frame:
    noise = np.random.default_rng(seed).normal(0, sigma, frame.shape)
    return np.clip(frame + noise, 0, 255).round().astype(np.uint8)


def same(first: Frame, second: Frame) -> bool:
    """Whether two frames are near-identical; also checks that their order does not matter."""
    pictures = grey_picture(first), grey_picture(second)
    assert near_identical(*pictures) == near_identical(*reversed(pictures))
    return near_identical(*pictures)


def big(index: int) -> Frame:
    return np.asarray(Image.fromarray(render(STREET, index).image).resize((640, 480)))


@settings(max_examples=20)
@given(st.integers(0, 30), st.sampled_from([0.0, 1.0, 3.5, 7.0]))
def test_noise_and_jpeg_do_not_make_a_frame_distinct(index: int, sigma: float) -> None:
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


def test_a_cell_that_differs_by_more_than_the_tolerance_makes_a_frame_distinct() -> None:
    for step in (TOLERANCE, TOLERANCE + 1):
        other = flat(100)
        other[10:20, 10:20] = 100 + step
        assert same(flat(100), other) == (step == TOLERANCE)


# Real cameras


def count_distinct(frames: Iterator[Frame]) -> tuple[int, int]:
    """Return the number of frames, and of those that are distinct from the last distinct one."""
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
def test_real_images_with_movement_are_distinct(
    tmp_path: Path, name: str, least: float, most: float
) -> None:
    camera = FolderCamera(second_by_second(real_camera(name), tmp_path / "in"), 0)
    total, count = count_distinct(taken.frame for taken in camera.poll({}))
    assert total >= 199 and least <= count / total <= most


@pytest.mark.data
@pytest.mark.parametrize(("every", "least", "most"), [(0.2, 0.4, 0.7), (1.0, 0.6, 0.85)])
def test_frames_of_a_real_video_with_movement_are_distinct(
    every: float, least: float, most: float
) -> None:
    camera = VideoCamera(str(real_camera("car-detection.mp4")), every)
    total, count = count_distinct(taken.frame for taken in camera.poll({}))
    assert abs(total - 30.1 / every) <= 2 and least <= count / total <= most


@pytest.mark.data
def test_noise_on_a_real_image_does_not_make_it_distinct() -> None:
    frame = read_image(min(real_camera("pets2009_s2l1_view1/frames").glob("*.jpg")))
    assert all(same(noisy(frame, 3.5, 2 * k), noisy(frame, 3.5, 2 * k + 1)) for k in range(5))


def image_files(folder: Path, pictures: Sequence[Frame]) -> ImageFiles:
    paths = [folder / f"{k:03}.png" for k, _ in enumerate(pictures)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return ImageFiles(tuple(paths))


@pytest.mark.parametrize(("level", "reason"), [(255, "uniformly grey, at 255"), (None, "still")])
def test_frames_that_all_look_alike_are_reported_with_the_likely_reason(
    tmp_path: Path, level: int | None, reason: str
) -> None:
    picture = render(STREET, 0).image if level is None else flat(level)
    pictures = [noisy(picture, 1.0, seed) for seed in range(20)]
    text = describe_repetition(image_files(tmp_path, pictures))
    assert text.startswith("19 of 19 frames, spread over all 20, look like the first one: ")
    assert reason in text
    one_in_five = [render(STREET, k).image if k % 5 == 4 else p for k, p in enumerate(pictures)]
    assert describe_repetition(image_files(tmp_path, one_in_five)) == ""


def test_a_single_frame_and_rendered_scenes_are_not_repetitions(tmp_path: Path) -> None:
    assert describe_repetition(image_files(tmp_path, [flat(9)])) == ""
    assert describe_repetition(RenderedScenes(STREET, 3)) == ""
