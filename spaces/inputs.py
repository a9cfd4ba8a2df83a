"""Prepare camera frames as network inputs, and map boxes back to the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spaces.errors import BadInput

Fit = Literal["squash", "letterbox", "crop"]
Frame = NDArray[np.uint8]


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
    """Size, normalisation and fit of a network's input.

    `height` and `width` are in pixels; `mean` and `std` normalise red, green and blue values
    from 0 to 1. `fit` names the part of the frame that the network sees: `squash` stretches the
    whole frame to the input; `letterbox` keeps the aspect ratio of the whole frame, anchors it top
    left and pads it with the mean; `crop` takes the centred square with a side of `crop_pct` times
    the short side of the frame.

    Raises:
        BadInput: a side is below 32 pixels, or `crop_pct` is not in (0, 1].
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit = "squash"
    crop_pct: float = 0.875

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32:
            raise BadInput(f"input size {self.height}x{self.width}: must be at least 32x32")
        if not 0 < self.crop_pct <= 1:
            raise BadInput(f"crop_pct {self.crop_pct}: must lie in (0, 1]")

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
    """Return a uint8 (H, W, 3) RGB frame as a normalised float32 (3, height, width) input."""
    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
    if spec.fit == "squash":
        fitted = _resize(pixels, spec.height, spec.width)
    elif spec.fit == "letterbox":
        fitted = _letterbox(pixels, spec)
    else:
        fitted = _centre_crop(pixels, spec)
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
    std = torch.tensor(spec.std).view(1, 3, 1, 1)
    return torch.as_tensor((fitted / 255.0 - mean) / std)[0]


def prepare_batch(frames: list[Frame], spec: InputSpec) -> Tensor:
    """Return frames as one (batch, 3, height, width) input in channels-last memory format."""
    batch = torch.stack([prepare(frame, spec) for frame in frames])
    return batch.contiguous(memory_format=torch.channels_last)


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


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(
        pixels, (height, width), mode="bilinear", antialias=True, align_corners=False
    )


def _letterbox_size(height: int, width: int, spec: InputSpec) -> tuple[int, int]:
    """Return the size of the scaled frame in whole pixels: its aspect ratio, up to rounding."""
    scale = min(spec.height / height, spec.width / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _letterbox(pixels: Tensor, spec: InputSpec) -> Tensor:
    inner = _resize(pixels, *_letterbox_size(pixels.shape[-2], pixels.shape[-1], spec))
    canvas = torch.tensor(spec.mean).mul(255.0).view(1, 3, 1, 1)
    canvas = canvas.expand(1, 3, spec.height, spec.width).clone()
    canvas[..., : inner.shape[-2], : inner.shape[-1]] = inner
    return canvas


def _centre_crop(pixels: Tensor, spec: InputSpec) -> Tensor:
    height, width = pixels.shape[-2:]
    scale = max(spec.height / height, spec.width / width) / spec.crop_pct
    tall, wide = max(spec.height, round(height * scale)), max(spec.width, round(width * scale))
    resized = _resize(pixels, tall, wide)
    top, left = (tall - spec.height) // 2, (wide - spec.width) // 2
    return resized[..., top : top + spec.height, left : left + spec.width]
