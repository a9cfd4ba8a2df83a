"""Frames as programs hold them become uint8 RGB arrays, or are refused with the conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spaces.errors import BadInput
from spaces.frame_arrays import as_frames
from spaces.inputs import Frame

FRAME: Frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
GREY: Frame = FRAME[:, :, 0]


def test_a_colour_frame_is_taken_as_it_is() -> None:
    (frame,) = as_frames(FRAME)
    assert np.shares_memory(frame, FRAME) and np.array_equal(frame, FRAME)


@pytest.mark.parametrize(
    "stack",
    [
        np.stack([FRAME, 255 - FRAME]),
        torch.from_numpy(np.stack([FRAME, 255 - FRAME])),
        [FRAME, 255 - FRAME],
        (frame for frame in (FRAME, 255 - FRAME)),
        [Image.fromarray(FRAME), torch.from_numpy(255 - FRAME)],
    ],
    ids=["array", "tensor", "list", "generator", "mixed"],
)
def test_a_stack_or_a_sequence_is_taken_frame_by_frame(stack: Any) -> None:
    one, other = as_frames(stack)
    assert np.array_equal(one, FRAME) and np.array_equal(other, 255 - FRAME)


def test_an_array_of_objects_holds_frames_of_several_sizes() -> None:
    held = np.empty(2, dtype=object)
    held[0], held[1] = FRAME, FRAME[:20]
    assert [frame.shape for frame in as_frames(held)] == [(40, 50, 3), (20, 50, 3)]


@pytest.mark.parametrize(
    "grey",
    [GREY, GREY[:, :, None], torch.from_numpy(GREY.copy()), Image.fromarray(GREY)],
    ids=["array", "one channel", "tensor", "image"],
)
def test_a_grey_frame_has_its_value_in_all_channels(grey: Any) -> None:
    (frame,) = as_frames(grey)
    assert frame.shape == (40, 50, 3) and (frame == GREY[:, :, None]).all()


def test_the_alpha_channel_is_left_out() -> None:
    alpha = np.full((40, 50, 1), 77, np.uint8)
    see_through = np.concatenate([FRAME, alpha], axis=2)
    for given in (see_through, see_through[None], Image.fromarray(see_through)):
        (frame,) = as_frames(given)
        assert np.array_equal(frame, FRAME)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_images_of_every_mode_of_eight_bits_are_taken_in_rgb(mode: str) -> None:
    image = Image.fromarray(FRAME).convert(mode)
    (frame,) = as_frames(image)
    assert np.array_equal(frame, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (FRAME.transpose(2, 0, 1), r"uint8 of shape \(3, 40, 50\).*frame.transpose\(1, 2, 0\)"),
        (torch.from_numpy(FRAME).permute(2, 0, 1), r"shape \(3, 40, 50\).*frame.permute\(1, 2, 0"),
        (np.zeros((2, 3, 40, 50), np.uint8), r"frame 0: uint8 of shape \(3, 40, 50\).*transpose"),
        (np.zeros((5, 40, 50), np.uint8), r"shape \(5, 40, 50\).*frames\[..., None\]"),
        (FRAME / 255, r"float64 .*from 0 to 1, so give \(frame \* 255\).round\(\).astype\(np.uin"),
        (torch.from_numpy(FRAME) / 255, r"float32 .*\(frame \* 255\).round\(\).to\(torch.uint8\)"),
        (torch.from_numpy(FRAME).bfloat16(), r"bfloat16 .*frame.round\(\).to\(torch.uint8\)"),
        (FRAME.astype(np.float32), r"from 0 to 255, so give frame.round\(\).astype\(np.uint8\)"),
        (FRAME / 100 - 1, "from -1 to 1.55, so give the frame as it was before it was normalised"),
        (np.full((40, 50, 3), np.nan), "before it was normalised"),
        (FRAME.astype(np.int64), r"int64 .*so give frame.astype\(np.uint8\)"),
        (FRAME.astype(np.uint16) * 257, r"65535, so give \(frame // 257\).astype"),
        (FRAME.astype(np.int64) * 9, "from 0 to 2295, so scale them to 0 to 255"),
        (FRAME > 9, r"bool of shape .*frame.astype\(np.uint8\) \* 255"),
        (Image.fromarray(FRAME[:, :, 0].astype(np.int32)), r"int32 of shape \(40, 50\)"),
        ([FRAME, FRAME[:0]], r"frame 1: uint8 of shape \(0, 50, 3\)"),
        (FRAME[0], r"uint8 of shape \(50, 3\)"),
        (np.zeros((40, 50, 5), np.uint8), r"uint8 of shape \(40, 50, 5\)"),
        ([FRAME.tolist()], "frame 0: list of .*np.asarray"),
        ("frame.png", r"frame 0: str of .*PIL.Image.open"),
        ([Path("frame.png")], r"frame 0: PosixPath of .*PIL.Image.open"),
        ({"frame": FRAME}, "frame 0: dict of"),
        (None, "frame 0: NoneType of"),
        (np.array([["a"]]), "frame 0: <U1 of"),
        ([], "no frame was given"),
        (np.zeros((0, 40, 50, 3), np.uint8), "no frame was given"),
    ],
)
def test_anything_else_is_refused_with_its_shape_its_type_and_how_to_convert_it(
    given: Any, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        as_frames(given)
