"""Prepare camera frames as network inputs, and map boxes back to the frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spaces.errors import BadInput

Fit = Literal["squash", "letterbox", "crop"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
ChannelOrder = Literal["rgb", "bgr"]
Frame = NDArray[np.uint8]

PREPARATION_VERSION = 2
"""Part of the keys of caches: increase it when `prepare` computes something else."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey value of a pixel (ITU-R BT.601)."""

MAX_ELONGATION = 16
"""A crop shows nothing beyond this many times the length that the input's shape asks for."""
VIEW_TOLERANCE = 0.05
"""Views with a smaller relative difference show the same content in each cell of a late grid."""


@dataclass(frozen=True)
class FieldOfView:
    """Which part of a frame a network sees, and how the part is laid out."""

    fit: Fit
    aspect: float
    """Width over height of the input; 1.0 if the frame is stretched to it."""
    part: float
    """Fraction of the short side of the frame that is seen."""

    def matches(self, other: FieldOfView) -> bool:
        """Return whether both views show the same content at the same relative place."""
        return (
            self.fit == other.fit
            and abs(self.aspect / other.aspect - 1) < VIEW_TOLERANCE
            and abs(self.part / other.part - 1) < VIEW_TOLERANCE
        )

    def __str__(self) -> str:
        return f"{self.fit} of {self.part:.0%} at {self.aspect:.2f}:1"


@dataclass(frozen=True)
class InputSpec:
    """Size, normalisation, fit and channels of a network's input.

    `height` and `width` are in pixels. `mean` and `std` normalise values from 0 to 1, one of each
    per channel, in the order of the network's channels: three, or one for a network that takes
    grey frames. `fit` names the part of the frame that the network sees: `squash` stretches the
    whole frame to the input; `letterbox` keeps the aspect ratio of the whole frame, anchors it top
    left and pads it with the mean; `crop` takes the centred square with a side of `crop_pct` times
    the short side of the frame. `interpolation` says how frames are resized, and `channels` in
    which order the network takes the colours.

    Raises:
        BadInput: a side is below 32 pixels, `crop_pct` is not in (0, 1], or `mean` and `std` do
            not fit each other.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "squash"
    crop_pct: float = 0.875
    interpolation: Interpolation = "bilinear"
    channels: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32:
            raise BadInput(f"input size {self.height}x{self.width}: must be at least 32x32")
        if not 0 < self.crop_pct <= 1:
            raise BadInput(f"crop_pct {self.crop_pct}: must lie in (0, 1]")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise BadInput(
                f"mean {self.mean} and std {self.std}: give one value for each of 3 channels, or "
                "one value each for a network that takes grey frames"
            )
        if min(self.std) <= 0:
            raise BadInput(f"std {self.std}: must be above 0")

    def __repr__(self) -> str:
        """Leave out fields that have their default and came later: keys of caches hash this."""
        later = ("interpolation", "channels")
        shown = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in later or getattr(self, field.name) != field.default
        }
        return f"InputSpec({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def fit_in_words(self) -> str:
        """The fit, with the size of a crop, such as `crop of 87.5%`."""
        return f"crop of {self.crop_pct:.1%}" if self.fit == "crop" else self.fit

    @property
    def channel_count(self) -> int:
        """Number of channels of the input: 3, or 1 for grey frames."""
        return len(self.mean)

    @property
    def field_of_view(self) -> FieldOfView:
        """The part of a frame that this input shows."""
        whole = self.fit == "squash"
        return FieldOfView(
            fit=self.fit,
            aspect=1.0 if whole else self.width / self.height,
            part=self.crop_pct if self.fit == "crop" else 1.0,
        )


def prepare(frame: Frame, spec: InputSpec) -> Tensor:
    """Return a uint8 (H, W, 3) RGB frame as a normalised float32 input.

    The input is (channels, height, width).
    """
    return normalise([fit_frame(frame, spec)], spec)[0]


def prepare_batch(frames: list[Frame], spec: InputSpec) -> Tensor:
    """Return frames as one (batch, channels, height, width) input, channels last in memory."""
    return normalise([fit_frame(frame, spec) for frame in frames], spec)


def fit_frame(frame: Frame, spec: InputSpec) -> Tensor:
    """Return what an input shows of a uint8 (H, W, 3) RGB frame, before it is normalised.

    It is (3, height, width) in RGB from 0 to 255, without the padding of a letterbox. It is uint8,
    and float32 if it was resized bicubically. It may share the memory of the frame.
    """
    pixels = _shared_pixels(frame)
    if spec.fit == "crop":
        return _centre_crop(pixels, spec)[0]
    return _resize(pixels, *resized_size(frame.shape[:2], spec), spec.interpolation)[0]


def normalise(fitted: Sequence[Tensor], spec: InputSpec) -> Tensor:
    """Return the results of `fit_frame` as one input.

    It is float32 (batch, channels, height, width), channels last in memory. Padding is 0, which
    is the mean.
    """
    shape = (len(fitted), spec.channel_count, spec.height, spec.width)
    batch = torch.empty(shape, memory_format=torch.channels_last).zero_()
    mean, std = _per_channel(spec.mean), _per_channel(spec.std)
    for row, pixels in zip(batch, fitted, strict=True):
        height, width = pixels.shape[-2:]
        values = _in_channels_of(spec, pixels.float())
        if pixels.is_floating_point():
            # a cubic curve overshoots at edges; pictures are resized to values from 0 to 255
            values = values.clamp(0, 255)
        row[:, :height, :width] = values.div(255.0).sub_(mean).div_(std)
    return batch


def _shared_pixels(frame: Frame) -> Tensor:
    """Return a frame as a (1, 3, H, W) tensor in the same memory, if torch can use it."""
    usable = frame.flags.writeable and min(frame.strides) > 0
    return torch.from_numpy(frame if usable else np.array(frame)).permute(2, 0, 1)[None]


def _in_channels_of(spec: InputSpec, pixels: Tensor) -> Tensor:
    """Return (3, H, W) float pixels in RGB in the channels of an input."""
    if spec.channel_count == 1:
        return (pixels * _per_channel(LUMA)).sum(0, keepdim=True)
    return pixels.flip(0) if spec.channels == "bgr" else pixels


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def boxes_to_frame(boxes: NDArray[Any], frame_size: tuple[int, int], spec: InputSpec) -> Any:
    """Map boxes from pixels of the input to pixels of the (height, width) frame.

    `boxes` is (n, 4) as x1, y1, x2, y2. The returned boxes are clipped to the frame.

    Raises:
        BadInput: the fit is crop, which does not show the whole frame.
    """
    height, width = frame_size
    if spec.fit == "crop":
        raise BadInput("a detector's input must be squash or letterbox, not crop")
    if spec.fit == "squash":
        scale_x, scale_y = width / spec.width, height / spec.height
    else:
        inner_height, inner_width = _letterbox_size(height, width, spec)
        scale_x, scale_y = width / inner_width, height / inner_height
    mapped = np.asarray(boxes, dtype=np.float64) * [scale_x, scale_y, scale_x, scale_y]
    return np.clip(mapped, 0, [width, height, width, height])


@dataclass(frozen=True)
class ShownPart:
    """The part of a frame that an input shows, and how many pixels of the input show it."""

    top: int
    left: int
    height: int
    width: int
    """Pixels of the frame, as the other three."""
    input_height: int
    input_width: int
    """Pixels of the input; the others are padding below and to the right."""


def shown_part(frame_size: tuple[int, int], spec: InputSpec) -> ShownPart:
    """Return which part of a (height, width) frame an input shows."""
    height, width = frame_size
    if spec.fit != "crop":
        letterbox = spec.fit == "letterbox"
        inner = _letterbox_size(height, width, spec) if letterbox else (spec.height, spec.width)
        return ShownPart(0, 0, height, width, *inner)
    scale = max(spec.height / height, spec.width / width) / spec.crop_pct
    tall, wide = min(height, round(spec.height / scale)), min(width, round(spec.width / scale))
    top, left = (height - tall) // 2, (width - wide) // 2
    return ShownPart(top, left, max(1, tall), max(1, wide), spec.height, spec.width)


def resized_size(frame_size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Return the (height, width) to which a (height, width) frame is resized for an input.

    Of a crop it is the size before the middle is cut out.
    """
    height, width = frame_size
    if spec.fit == "squash":
        return spec.height, spec.width
    if spec.fit == "letterbox":
        return _letterbox_size(height, width, spec)
    scale = max(spec.height / height, spec.width / width) / spec.crop_pct
    return max(spec.height, round(height * scale)), max(spec.width, round(width * scale))


def _resize(pixels: Tensor, height: int, width: int, interpolation: Interpolation) -> Tensor:
    """Return uint8 pixels in another size; bicubic ones as float32, not limited to 255.

    Bilinear resizing rounds twice, first the rows and then the columns, so it differs by up to
    one from that of float32; bicubic resizing would differ by tens at sharp edges, since it also
    cuts off what overshoots twice.
    """
    if pixels.shape[-2:] == (height, width):
        return pixels
    if interpolation == "nearest":
        return F.interpolate(pixels, (height, width), mode="nearest-exact")
    if interpolation == "bicubic":
        pixels = pixels.float()
    return F.interpolate(
        pixels, (height, width), mode=interpolation, antialias=True, align_corners=False
    )


def _letterbox_size(height: int, width: int, spec: InputSpec) -> tuple[int, int]:
    """Return the size of the scaled frame in whole pixels: its aspect ratio, up to rounding."""
    scale = min(spec.height / height, spec.width / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _centre_crop(pixels: Tensor, spec: InputSpec) -> Tensor:
    pixels = _shortened(pixels, spec)
    height, width = pixels.shape[-2:]
    tall, wide = resized_size((height, width), spec)
    resized = _resize(pixels, tall, wide, spec.interpolation)
    top, left = (tall - spec.height) // 2, (wide - spec.width) // 2
    return resized[..., top : top + spec.height, left : left + spec.width]


def _shortened(pixels: Tensor, spec: InputSpec) -> Tensor:
    """Cut off the ends of a very long frame, which the crop does not show.

    Otherwise the whole frame would be resized: a frame of 1 x 4000 pixels to a million columns.
    """
    height, width = pixels.shape[-2:]
    longest_height = max(1, math.ceil(MAX_ELONGATION * width * spec.height / spec.width))
    longest_width = max(1, math.ceil(MAX_ELONGATION * height * spec.width / spec.height))
    top, left = max(0, height - longest_height) // 2, max(0, width - longest_width) // 2
    return pixels[..., top : top + longest_height, left : left + longest_width]
