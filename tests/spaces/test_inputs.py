"""From frame to network input and back, on images with known content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from spaces.errors import BadInput
from spaces.inputs import (
    Fit,
    Frame,
    InputSpec,
    Interpolation,
    boxes_to_frame,
    prepare,
    prepare_batch,
    resized_size,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
sides = st.integers(32, 200)
FITS: tuple[Fit, ...] = ("squash", "letterbox", "crop")


def spec_of(height: int, width: int, fit: Fit, crop_pct: float = 0.875) -> InputSpec:
    return InputSpec(height, width, MEAN, STD, fit, crop_pct)


def black(height: int, width: int) -> Frame:
    return np.zeros((height, width, 3), dtype=np.uint8)


def pixels(prepared: Tensor) -> Tensor:
    """Return the prepared input as values from 0 to 255, (3, height, width)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return torch.as_tensor((prepared * std + mean) * 255)


def bounds(mask: Tensor) -> list[int]:
    """Return x1, y1, x2, y2 around the true pixels of a (height, width) mask."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@given(st.integers(0, 2**32 - 1), sides, sides, st.sampled_from(["squash", "letterbox"]))
def test_a_frame_of_the_input_size_is_only_normalised(
    seed: int, height: int, width: int, fit: Fit
) -> None:
    shape = (height, width, 3)
    frame = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    restored = pixels(prepare(frame, spec_of(height, width, fit)))
    assert torch.equal(restored.round().to(torch.uint8), torch.from_numpy(frame).permute(2, 0, 1))


def test_a_full_crop_of_a_frame_of_the_input_size_is_only_normalised() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    restored = pixels(prepare(frame, spec_of(64, 64, "crop", 1.0)))
    assert torch.equal(restored.round().to(torch.uint8), torch.from_numpy(frame).permute(2, 0, 1))


def test_the_channels_keep_their_order_and_their_own_normalisation() -> None:
    frame = black(40, 40)
    frame[...] = (255, 128, 0)
    prepared = prepare(frame, spec_of(32, 32, "squash"))
    for channel, value in enumerate((1.0, 128 / 255, 0.0)):
        expected = torch.full((32, 32), (value - MEAN[channel]) / STD[channel])
        torch.testing.assert_close(prepared[channel], expected, atol=1e-4, rtol=0)


def test_squash_stretches_the_whole_frame() -> None:
    frame = black(100, 400)
    frame[:, 200:] = 255
    frame[50:, :200] = 100
    channel = pixels(prepare(frame, spec_of(64, 64, "squash")))[0]
    assert channel[:30, :30].max() < 1 and channel[:, 34:].min() > 254
    assert (channel[34:, :30] - 100).abs().max() < 1


def test_letterbox_keeps_the_aspect_and_pads_with_the_mean() -> None:
    frame = black(40, 80)
    frame[:, 40:] = 255
    prepared = prepare(frame, spec_of(64, 64, "letterbox"))
    channel = pixels(prepared)[0]
    assert channel[:32, :30].max() < 1 and channel[:32, 34:].min() > 254
    assert prepared[:, 32:].abs().max() < 1e-5
    tall = prepare(frame.transpose(1, 0, 2), spec_of(64, 64, "letterbox"))
    assert tall[:, :, 32:].abs().max() < 1e-5 and tall[:, :, :32].abs().min() > 0.1


@pytest.mark.parametrize(("height", "width"), [(80, 160), (160, 80), (120, 120)])
@pytest.mark.parametrize("crop_pct", [0.5, 0.8])
def test_crop_sees_the_centred_square(height: int, width: int, crop_pct: float) -> None:
    side = crop_pct * min(height, width)
    frame = black(height, width)
    margins = [round((length - side) / 2) for length in (height, width)]
    frame[margins[0] : height - margins[0], margins[1] : width - margins[1]] = 255
    channel = pixels(prepare(frame, spec_of(64, 64, "crop", crop_pct)))[0]
    assert channel[2:-2, 2:-2].min() > 254, "the square fills the input"
    frame = 255 - frame
    channel = pixels(prepare(frame, spec_of(64, 64, "crop", crop_pct)))[0]
    assert channel[2:-2, 2:-2].max() < 1, "nothing around the square is visible"


@given(sides, sides, sides, sides, st.sampled_from(["squash", "letterbox", "crop"]))
def test_every_frame_becomes_an_input_of_the_right_size(
    height: int, width: int, tall: int, wide: int, fit: Fit
) -> None:
    frame = black(height, width)
    assert prepare(frame, spec_of(tall, wide, fit)).shape == (3, tall, wide)


@given(sides, sides, sides, sides, st.sampled_from(["squash", "letterbox"]))
def test_the_outline_of_the_frame_maps_back_to_the_frame(
    height: int, width: int, tall: int, wide: int, fit: Fit
) -> None:
    spec = spec_of(tall, wide, fit)
    values = pixels(prepare(black(height, width) + np.uint8(255), spec))
    outline = bounds(values[0] > 250)
    back = boxes_to_frame(np.array([outline]), (height, width), spec)
    np.testing.assert_allclose(back, [[0, 0, width, height]], atol=1e-9)


@given(st.data(), st.sampled_from(["squash", "letterbox"]))
def test_a_box_in_the_input_maps_back_to_where_it_is_in_the_frame(
    data: st.DataObject, fit: Fit
) -> None:
    height, width, tall, wide = (data.draw(st.integers(64, 200)) for _ in range(4))
    x1, y1 = data.draw(st.integers(0, width - 32)), data.draw(st.integers(0, height - 32))
    x2, y2 = data.draw(st.integers(x1 + 32, width)), data.draw(st.integers(y1 + 32, height))
    frame = black(height, width)
    frame[y1:y2, x1:x2] = 255
    spec = spec_of(tall, wide, fit)
    # The padding is the mean; a threshold above it selects the box.
    landed = bounds(pixels(prepare(frame, spec))[0] > 128)
    back = boxes_to_frame(np.array([landed]), (height, width), spec)[0]
    per_pixel = boxes_to_frame(np.array([[0, 0, 1, 1]]), (height, width), spec)[0, 2:]
    assert (np.abs(back - [x1, y1, x2, y2]) <= np.tile(per_pixel, 2) + 1e-9).all()


def test_boxes_are_clipped_to_the_frame() -> None:
    spec = spec_of(64, 64, "letterbox")
    back = boxes_to_frame(np.array([[-10.0, -10, 90, 90]]), (40, 80), spec)
    np.testing.assert_array_equal(back, [[0, 0, 80, 40]])


def test_an_empty_array_of_boxes_stays_empty() -> None:
    assert boxes_to_frame(np.zeros((0, 4)), (40, 80), spec_of(64, 64, "squash")).shape == (0, 4)


def test_boxes_on_a_crop_are_refused() -> None:
    with pytest.raises(BadInput, match="squash or letterbox"):
        boxes_to_frame(np.zeros((1, 4)), (40, 80), spec_of(64, 64, "crop"))


def test_a_batch_stacks_the_prepared_frames() -> None:
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (50, 70, 3), dtype=np.uint8) for _ in range(3)]
    spec = spec_of(32, 48, "letterbox")
    batch = prepare_batch(frames, spec)
    assert torch.equal(batch, torch.stack([prepare(frame, spec) for frame in frames]))
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_read_only_and_flipped_frames_are_prepared_correctly() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    spec = spec_of(40, 40, "squash")
    flipped = prepare(frame[:, ::-1], spec)
    torch.testing.assert_close(flipped, prepare(frame, spec).flip(2))
    frame.flags.writeable = False
    assert torch.equal(prepare(frame, spec).flip(2), flipped)


@pytest.mark.parametrize("side", [0, -1, 31])
def test_an_input_that_is_too_small_is_refused(side: int) -> None:
    for height, width in ((side, 64), (64, side)):
        with pytest.raises(BadInput, match="at least 32x32"):
            spec_of(height, width, "squash")


@pytest.mark.parametrize("crop_pct", [0.0, -0.5, 1.01, float("nan")])
def test_a_crop_fraction_outside_0_to_1_is_refused(crop_pct: float) -> None:
    with pytest.raises(BadInput, match="crop_pct"):
        spec_of(64, 64, "crop", crop_pct)


@given(sides, sides, st.sampled_from(["squash", "letterbox", "crop"]))
def test_the_resolution_does_not_change_the_field_of_view(
    height: int, width: int, fit: Fit
) -> None:
    one, other = spec_of(height, width, fit), spec_of(3 * height, 3 * width, fit)
    assert one.field_of_view.matches(other.field_of_view)


def test_squashed_inputs_of_any_aspect_ratio_have_the_same_field_of_view() -> None:
    one, other = spec_of(64, 64, "squash"), spec_of(64, 128, "squash")
    assert one.field_of_view.matches(other.field_of_view)


@pytest.mark.parametrize(
    "other",
    [
        spec_of(64, 64, "squash"),
        spec_of(64, 64, "letterbox"),
        spec_of(64, 64, "crop", 0.5),
        spec_of(64, 128, "crop", 0.874),
    ],
)
def test_inputs_that_show_different_parts_have_different_fields_of_view(other: InputSpec) -> None:
    assert not spec_of(64, 64, "crop").field_of_view.matches(other.field_of_view)
    assert not other.field_of_view.matches(spec_of(64, 64, "crop").field_of_view)


NOISE: Frame = np.random.default_rng(5).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def test_an_input_in_bgr_has_the_channels_of_the_frame_in_reverse() -> None:
    for fit in FITS:
        spec = spec_of(48, 32, fit)
        reverse = replace(spec, channels="bgr", mean=MEAN[::-1], std=STD[::-1])
        assert torch.equal(prepare(NOISE, reverse), prepare(NOISE, spec).flip(0))
        assert torch.equal(prepare(NOISE, reverse), prepare(NOISE[:, :, ::-1], reverse_rgb(spec)))


def reverse_rgb(spec: InputSpec) -> InputSpec:
    """Return the spec for frames whose channels are already in reverse."""
    return replace(spec, mean=spec.mean[::-1], std=spec.std[::-1])


def test_a_grey_input_is_the_luma_of_the_frame() -> None:
    spec = InputSpec(40, 56, (0.4,), (0.2,), "squash")
    grey = prepare(NOISE, spec)
    luma = NOISE.astype(np.float64) @ [0.299, 0.587, 0.114]
    expected = torch.from_numpy((luma / 255 - 0.4) / 0.2).float()
    assert grey.shape == (1, 40, 56) and spec.channel_count == 1
    torch.testing.assert_close(grey[0], expected, atol=1e-5, rtol=0)
    plain = np.repeat(NOISE[:, :, :1], 3, axis=2)
    same = (torch.from_numpy(plain[:, :, 0]).float() / 255 - 0.4) / 0.2
    torch.testing.assert_close(prepare(plain, spec)[0], same, atol=1e-5, rtol=0)


def test_a_grey_letterbox_is_padded_with_the_mean() -> None:
    grey = prepare(black(32, 64), InputSpec(64, 64, (0.4,), (0.2,), "letterbox"))
    assert grey[0, 32:].abs().max() < 1e-5
    torch.testing.assert_close(grey[0, :32], torch.full((32, 64), -2.0), atol=1e-4, rtol=0)


def test_a_bicubic_input_stays_within_0_to_255() -> None:
    edges: Frame = np.where(NOISE > 127, 255, 0).astype(np.uint8)
    for fit in FITS:
        bilinear = spec_of(128, 96, fit)
        bicubic = replace(bilinear, interpolation="bicubic")
        seen = pixels(prepare(edges, bicubic))
        assert seen.min() > -1e-3 and seen.max() < 255 + 1e-3
        assert (seen - pixels(prepare(edges, bilinear))).abs().max() > 5


def test_a_nearest_input_holds_only_values_of_the_frame() -> None:
    edges: Frame = np.where(NOISE > 127, 255, 0).astype(np.uint8)
    seen = pixels(prepare(edges, replace(spec_of(96, 64, "squash"), interpolation="nearest")))
    assert set(seen.round().flatten().tolist()) == {0.0, 255.0}


def test_the_text_of_an_input_without_later_settings_is_that_of_earlier_versions() -> None:
    """Keys of caches hash the text."""
    spec = InputSpec(64, 96, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "squash")
    text = (
        "InputSpec(height=64, width=96, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), fit='squash', "
        "crop_pct=0.875)"
    )
    assert repr(spec) == text
    assert repr(replace(spec, channels="bgr")) == f"{text[:-1]}, channels='bgr')"
    changed = replace(spec, interpolation="bicubic")
    assert repr(changed) == f"{text[:-1]}, interpolation='bicubic')"


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), (0.2, 0.2), "one value for each of 3 channels"),
        ((0.5,), (0.2, 0.2, 0.2), "one value for each of 3 channels"),
        ((0.5, 0.5, 0.5), (0.2, 0.0, 0.2), "must be above 0"),
    ],
)
def test_a_mean_and_std_that_do_not_fit_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        InputSpec(64, 64, mean, std)


@given(sides, sides, st.integers(0, 2**32 - 1))
def test_the_crop_of_an_ordinary_frame_is_the_crop_of_the_whole_frame_resized(
    height: int, width: int, seed: int
) -> None:
    """Cutting off the ends of long frames changes no other frame by a bit."""
    shape = (height, width, 3)
    frame = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    tall, wide = 64, 48
    scale = max(tall / height, wide / width) / 0.875
    size = max(tall, round(height * scale)), max(wide, round(width * scale))
    whole = torch.from_numpy(frame).permute(2, 0, 1)[None]
    if whole.shape[-2:] != size:
        whole = F.interpolate(whole, size, mode="bilinear", antialias=True, align_corners=False)
    top, left = (size[0] - tall) // 2, (size[1] - wide) // 2
    seen = whole[..., top : top + tall, left : left + wide]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    expected = (seen / 255.0 - mean) / std
    assert torch.equal(prepare(frame, spec_of(tall, wide, "crop")), expected[0])


def resized_in_float(pixels: Tensor, size: tuple[int, int], spec: InputSpec) -> Tensor:
    """Return float32 pixels, (1, channels, H, W), resized without rounding to grey levels."""
    if pixels.shape[-2:] == size:
        return pixels
    if spec.interpolation == "nearest":
        return F.interpolate(pixels, size, mode="nearest-exact")
    return F.interpolate(pixels, size, mode=spec.interpolation, antialias=True).clamp(0, 255)


def prepared_in_float(frame: Frame, spec: InputSpec) -> Tensor:
    """Return the input of a frame as `prepare` does, in float32 from the first step on."""
    values = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
    if spec.channel_count == 1:
        values = (values * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, True)
    elif spec.channels == "bgr":
        values = values.flip(1)
    height, width = frame.shape[:2]
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    shown = mean.mul(255).expand(1, -1, spec.height, spec.width).clone()
    if spec.fit == "crop":
        scale = max(spec.height / height, spec.width / width) / spec.crop_pct
        size = max(spec.height, round(height * scale)), max(spec.width, round(width * scale))
        top, left = (size[0] - spec.height) // 2, (size[1] - spec.width) // 2
        resized = resized_in_float(values, size, spec)
        shown = resized[..., top : top + spec.height, left : left + spec.width]
    else:
        scale = min(spec.height / height, spec.width / width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        size = (spec.height, spec.width) if spec.fit == "squash" else size
        shown[..., : size[0], : size[1]] = resized_in_float(values, size, spec)
    return ((shown / 255 - mean) / std)[0]


PICTURES: dict[str, Callable[[Frame], Frame]] = {
    "noise": lambda values: values,
    "black and white noise": lambda values: np.where(values > 127, 255, 0).astype(np.uint8),
    "dim noise": lambda values: values // 64,
    "ramp": lambda values: np.sort(values, axis=1),
}
short_sides = st.integers(1, 150)


@given(
    short_sides,
    short_sides,
    sides,
    sides,
    st.sampled_from(FITS),
    st.sampled_from(["bilinear", "bicubic", "nearest"]),
    st.sampled_from(["rgb", "bgr", "grey"]),
    st.sampled_from(sorted(PICTURES)),
    st.integers(0, 2**32 - 1),
)
def test_an_input_is_within_a_grey_level_of_one_computed_in_float(
    height: int,
    width: int,
    tall: int,
    wide: int,
    fit: Fit,
    interpolation: Interpolation,
    channels: str,
    kind: str,
    seed: int,
) -> None:
    """Rounding after the rows and after the columns is half a level each; weights are rounded."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = PICTURES[kind](values)
    spec = replace(spec_of(tall, wide, fit), interpolation=interpolation)
    if channels == "bgr":
        spec = replace(spec, channels="bgr")
    elif channels == "grey":
        spec = replace(spec, mean=(0.4,), std=(0.2,))
    assume(max(height, width) <= 4 * min(height, width))
    std = torch.tensor(spec.std).view(-1, 1, 1)
    difference = ((prepare(frame, spec) - prepared_in_float(frame, spec)) * std * 255).abs()
    assert difference.max() <= (1.02 if interpolation == "bilinear" else 1e-3)


@given(st.data(), st.sampled_from(FITS), st.sampled_from([2, 4, 8]))
def test_a_frame_of_a_whole_fraction_of_the_size_is_resized_to_the_same_size(
    data: st.DataObject, fit: Fit, factor: int
) -> None:
    """So an input of a smaller copy shows the same part at the same place, to the pixel."""
    height, width = data.draw(st.integers(1, 600)), data.draw(st.integers(1, 600))
    spec = spec_of(data.draw(sides), data.draw(sides), fit, data.draw(st.floats(0.1, 1)))
    whole = (factor * height, factor * width)
    assert resized_size((height, width), spec) == resized_size(whole, spec)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (2, 9000), (1, 1)])
@pytest.mark.parametrize("fit", FITS)
def test_a_long_frame_makes_no_tensor_much_larger_than_the_input(
    fit: Fit, size: tuple[int, int]
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        prepared = prepare(frame, spec_of(64, 64, fit))
    assert prepared.shape == (3, 64, 64) and prepared.isfinite().all()
    assert largest.elements <= 64 * prepared.numel()


def test_the_crop_of_a_long_frame_shows_its_middle() -> None:
    frame = black(4, 4000)
    frame[:, 1990:2010] = 255
    seen = pixels(prepare(frame, spec_of(64, 64, "crop", 1.0)))
    assert seen.min() > 254
