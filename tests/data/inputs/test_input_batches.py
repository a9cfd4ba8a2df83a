"""Inputs of networks are the same however many pixels of a frame were decoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFilter

from search.data.frames import (
    BadFrames,
    FrameSet,
    ImageFiles,
    JoinedFrames,
    Subset,
    batch_ranges,
    picture_of,
)
from search.data.images import check_image, read_image, read_picture, read_size
from search.data.inputs.input_batches import InputBatch, input_batches, reduction_for
from spaces.inputs import Fit, Frame, InputSpec, boxes_to_frame, prepare_batch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = InputSpec(32, 48, MEAN, STD, "squash")
sizes = st.tuples(st.integers(1, 500), st.integers(1, 500))
fits: st.SearchStrategy[Fit] = st.sampled_from(["squash", "letterbox", "crop"])


def scene(height: int, width: int, seed: int = 0) -> Frame:
    """Return a picture with soft and hard edges, as cameras see them."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)
    return np.array(picture.filter(ImageFilter.GaussianBlur(2)))


def write_jpeg(path: Path, pixels: Frame, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, quality=92, exif=exif)
    return path


def only_batch(frames: FrameSet, inputs: Sequence[InputSpec]) -> InputBatch:
    by_name = {str(number): spec for number, spec in enumerate(inputs)}
    (batch,) = input_batches(frames, batch_ranges(len(frames), len(frames)), by_name)
    return batch


def levels_between(batch: InputBatch, frames: FrameSet, spec: InputSpec) -> torch.Tensor:
    """Return by how many grey levels an input differs from that of the whole frames."""
    whole = prepare_batch([frames[k] for k in range(len(frames))], spec)
    return (batch.inputs["0"] - whole).abs() * torch.tensor(STD).view(1, 3, 1, 1) * 255


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
def test_a_large_jpeg_gives_nearly_the_same_input_and_its_own_size(
    tmp_path: Path, fit: Fit
) -> None:
    frames = ImageFiles(tuple(write_jpeg(tmp_path / f"{k}.jpg", scene(480, 640, k))
                              for k in range(3)))  # fmt: skip
    spec = replace(SMALL, fit=fit)
    batch = only_batch(frames, [spec])
    difference = levels_between(batch, frames, spec)
    assert batch.frame_sizes == [(480, 640)] * 3 and len(batch) == 3
    assert 0 < difference.mean() < 1 and difference.max() < 16
    assert picture_of(frames, 0, lambda size: reduction_for(size, [spec])).pixels.shape[0] < 480


def test_a_frame_that_is_read_whole_gives_the_very_input(tmp_path: Path) -> None:
    """No JPEG file, too small, or of a size that is no multiple."""
    odd, small, png = scene(481, 641), scene(100, 120), scene(480, 640)
    Image.fromarray(png).save(tmp_path / "c.png")
    paths = (write_jpeg(tmp_path / "a.jpg", odd), write_jpeg(tmp_path / "b.jpg", small))
    frames = ImageFiles((*paths, tmp_path / "c.png"))
    batch = only_batch(frames, [SMALL])
    assert levels_between(batch, frames, SMALL).max() == 0
    assert batch.frame_sizes == [(481, 641), (100, 120), (480, 640)]


def test_the_largest_input_decides_how_many_pixels_are_read(tmp_path: Path) -> None:
    large = replace(SMALL, height=120, width=160)
    frames = ImageFiles((write_jpeg(tmp_path / "a.jpg", scene(480, 640)),))
    cases = [[SMALL], [SMALL, large], [SMALL, replace(large, height=121)]]
    assert [reduction_for((480, 640), specs) for specs in cases] == [4, 2, 1]
    alone = next(input_batches(frames, [range(1)], {"small": SMALL}))
    beside = next(input_batches(frames, [range(1)], {"small": SMALL}, [large]))
    both = next(input_batches(frames, [range(1)], {"small": SMALL, "large": large}))
    assert torch.equal(beside.inputs["small"], both.inputs["small"])
    assert not torch.equal(alone.inputs["small"], both.inputs["small"])


@given(sizes, st.lists(st.tuples(st.integers(32, 130), st.integers(32, 130), fits), min_size=1))
def test_a_reduced_frame_has_whole_pixels_and_twice_what_is_needed(
    size: tuple[int, int], shapes: list[tuple[int, int, Fit]]
) -> None:
    specs = [InputSpec(height, width, MEAN, STD, fit) for height, width, fit in shapes]
    size = (size[0] * 8, size[1] * 8)
    factor = reduction_for(size, specs)
    assert factor in (1, 2, 4, 8)
    for spec in specs if factor > 1 else []:
        tall, wide = (side / factor for side in size)
        scale = {
            "squash": (spec.height / tall, spec.width / wide),
            "letterbox": (min(spec.height / tall, spec.width / wide),) * 2,
            "crop": (max(spec.height / tall, spec.width / wide) / spec.crop_pct,) * 2,
        }[spec.fit]
        assert max(scale[0] * tall - 1, 1) * 2 <= tall and max(scale[1] * wide - 1, 1) * 2 <= wide
    assert all(side % factor == 0 for side in size)
    assert reduction_for((size[0] + 1, size[1]), specs) == 1 or size[0] % 2


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_map_back_to_the_pixels_of_the_whole_frame(
    tmp_path: Path, fit: Fit, orientation: int
) -> None:
    frames = ImageFiles((write_jpeg(tmp_path / "a.jpg", scene(480, 640), orientation),))
    spec, boxes = replace(SMALL, fit=fit), np.array([[3.0, 5.0, 20.5, 31.0], [0, 0, 48, 32]])
    batch = only_batch(frames, [spec])
    whole = frames[0].shape[:2]
    assert batch.frame_sizes == [whole] and read_size(frames.paths[0]) == whole[::-1]
    assert whole == ((640, 480) if orientation > 4 else (480, 640))
    np.testing.assert_array_equal(
        boxes_to_frame(boxes, batch.frame_sizes[0], spec), boxes_to_frame(boxes, whole, spec)
    )
    assert levels_between(batch, frames, spec).mean() < 1, "it is upright"


@settings(max_examples=30, deadline=None)
@given(
    st.integers(8, 60),
    st.integers(8, 60),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["RGB", "L", "CMYK"]),
    st.booleans(),
    st.integers(0, 2),
)
def test_a_reduced_picture_has_the_size_of_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    tall: int,
    wide: int,
    factor: int,
    mode: str,
    progressive: bool,
    subsampling: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "reduced.jpg"
    image = Image.fromarray(scene(8 * tall, 8 * wide)).convert(mode)
    image.save(path, progressive=progressive, subsampling=subsampling)
    picture = read_picture(path, lambda size: factor)
    left = 1 if mode == "CMYK" else factor
    assert picture.frame_size == (8 * tall, 8 * wide)
    assert picture.pixels.shape == (8 * tall // left, 8 * wide // left, 3)


def refusal(path: Path, factor: int) -> str:
    """Return why a file cannot be read; empty if it can."""
    try:
        read_picture(path, lambda size: factor)
    except BadFrames as error:
        return str(error)
    return ""


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.binary(max_size=12), st.booleans(), st.sampled_from([2, 4, 8]))
def test_a_damaged_jpeg_is_refused_with_the_same_sentence_at_any_size(
    tmp_path_factory: pytest.TempPathFactory, place: float, junk: bytes, cut: bool, factor: int
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene(64, 96)).save(buffer, "jpeg")
    whole = buffer.getvalue()
    at = round(place * len(whole))
    path = tmp_path_factory.getbasetemp() / "damaged.jpg"
    path.write_bytes(whole[:at] + junk + (b"" if cut else whole[at + len(junk) :]))
    assert refusal(path, factor) == refusal(path, 1)


def test_an_image_that_is_damaged_after_the_check_is_named_by_its_file(tmp_path: Path) -> None:
    paths = [write_jpeg(tmp_path / f"{k}.jpg", scene(480, 640, k)) for k in range(4)]
    frames = ImageFiles(tuple(paths), checked_digests=tuple(check_image(p).digest for p in paths))
    paths[2].write_bytes(paths[2].read_bytes()[:-200])
    done = []
    with pytest.raises(BadFrames) as serial:
        [frames[k] for k in range(4)]
    with pytest.raises(BadFrames) as ahead:
        for batch in input_batches(frames, batch_ranges(4, 1), {"small": SMALL}):
            done.append(batch.indices.start)
    assert str(ahead.value) == str(serial.value) and "2.jpg" in str(ahead.value)
    assert "put it back, and start the command again" in str(ahead.value) and done == [0, 1]


def test_subsets_and_joined_sets_read_the_same_pictures(tmp_path: Path) -> None:
    files = ImageFiles(tuple(write_jpeg(tmp_path / f"{k}.jpg", scene(480, 640, k))
                             for k in range(4)))  # fmt: skip
    first, second = Subset(files, (0, 1)), Subset(files, (3, 2))
    joined = Subset(JoinedFrames((first, second)), (3, 0, 2))
    direct = only_batch(Subset(files, (2, 0, 3)), [SMALL])
    assert torch.equal(only_batch(joined, [SMALL]).inputs["0"], direct.inputs["0"])


def test_a_network_that_takes_single_pixels_reads_them_all(tmp_path: Path) -> None:
    frames = ImageFiles((write_jpeg(tmp_path / "a.jpg", scene(480, 640)),))
    spec = replace(SMALL, interpolation="nearest")
    assert levels_between(only_batch(frames, [spec]), frames, spec).max() == 0
    assert read_image(frames.paths[0]).shape == (480, 640, 3)
