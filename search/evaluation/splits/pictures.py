"""What a device sends without a split: each frame as a picture file, for the whole networks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image, features

from spaces.inputs import Frame, InputSpec, prepare, shown_part
from spaces.stages import StagedModel
from spaces.tasks.task import FrameSize

PictureFormat = Literal["jpeg", "webp", "avif", "png"]
PICTURE_NAMES: Mapping[PictureFormat, str] = {
    "jpeg": "JPEG",
    "webp": "WebP",
    "avif": "AVIF",
    "png": "PNG",
}
LOSSLESS: frozenset[PictureFormat] = frozenset({"png"})
_OPTIONS: Mapping[PictureFormat, Mapping[str, Any]] = {"jpeg": {"optimize": True}}
"""Huffman tables of the picture's own: fewer bytes at no loss."""
_SHORTEST_SIDE = 32
"""Pixels; `InputSpec` takes no less."""


@dataclass(frozen=True)
class PictureCoding:
    """A picture format at one quality.

    Raises:
        ValueError: the quality is not from 0 to 100, or the side is below 32 pixels.
    """

    format: PictureFormat
    quality: int = 100
    """As Pillow takes it, from 0 to 100; a lossless format has only one."""
    side: int | None = None
    """Pixels of the longer side of the picture; None for as many as the networks take."""

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality}: must be from 0 to 100")
        if self.side is not None and self.side < _SHORTEST_SIDE:
            raise ValueError(f"side {self.side}: must be at least {_SHORTEST_SIDE} pixels")

    @property
    def name(self) -> str:
        """The format and the quality in words, such as `JPEG q75 at 160 px`."""
        quality = "" if self.format in LOSSLESS else f" q{self.quality}"
        side = "" if self.side is None else f" at {self.side} px"
        return f"{PICTURE_NAMES[self.format]}{quality}{side}"

    def encode(self, picture: Frame) -> bytes:
        """Return the file of a uint8 (H, W, 3) or, of a grey one, (H, W) picture."""
        options = dict(_OPTIONS.get(self.format, {}))
        if self.format not in LOSSLESS:
            options["quality"] = self.quality
        file = io.BytesIO()
        Image.fromarray(picture).save(file, PICTURE_NAMES[self.format].upper(), **options)
        return file.getvalue()

    @staticmethod
    def decode(data: bytes) -> Frame:
        """Return the picture of a file as a uint8 (H, W, 3) frame."""
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def missing_formats(formats: Iterable[PictureFormat]) -> list[PictureFormat]:
    """Return the formats that this build of Pillow cannot write."""
    optional = {"webp", "avif"}
    return [name for name in formats if name in optional and not features.check(name)]


@dataclass(frozen=True)
class PictureView:
    """The one picture of a frame that serves several networks.

    If all networks crop the same part, it is that part; otherwise it is the whole frame. It has
    as many pixels as the largest input needs, but never more than the frame.
    """

    inputs: Mapping[str, InputSpec]
    """By model."""

    @classmethod
    def of(cls, models: Mapping[str, StagedModel]) -> PictureView:
        """Return the view of all models."""
        return cls({name: model.input for name, model in models.items()})

    @property
    def is_cropped(self) -> bool:
        """Whether only the part is sent that all networks show."""
        first, *others = (spec.field_of_view for spec in self.inputs.values())
        return first.fit == "crop" and all(first.matches(other) for other in others)

    def take(self, frame: Frame, side: int | None = None) -> Frame:
        """Return the picture of a uint8 (H, W, 3) frame, before it is coded.

        It is grey, (H, W), if all networks take grey frames. `side` limits its longer side.
        """
        size = (frame.shape[0], frame.shape[1])
        height, width = _limited(self._size(size), side)
        spec = replace(
            self._largest,
            height=max(height, _SHORTEST_SIDE),
            width=max(width, _SHORTEST_SIDE),
            mean=(0.0,) * self._channels,
            std=(1.0,) * self._channels,
            fit="crop" if self.is_cropped else "squash",
            channels="rgb",
        )
        pixels = prepare(frame, spec).mul(255).round().clamp(0, 255)
        picture = pixels.permute(1, 2, 0).numpy().astype(np.uint8)
        return np.ascontiguousarray(picture[..., 0] if self._channels == 1 else picture)

    def server_input(self, name: str) -> InputSpec:
        """Return how the server prepares decoded pictures for a network.

        A picture of the part that is cropped is not cropped again.
        """
        spec = self.inputs[name]
        return replace(spec, fit="squash") if self.is_cropped else spec

    @property
    def _largest(self) -> InputSpec:
        return max(self.inputs.values(), key=lambda spec: spec.height * spec.width)

    @property
    def _channels(self) -> int:
        return max(spec.channel_count for spec in self.inputs.values())

    def _size(self, frame_size: FrameSize) -> FrameSize:
        """Return the (height, width) of the picture."""
        needed = [self._needed(frame_size, spec) for spec in self.inputs.values()]
        available = frame_size
        if self.is_cropped:
            shown = shown_part(frame_size, self._largest)
            available = (shown.height, shown.width)
        heights, widths = zip(*needed, strict=True)
        return min(max(heights), available[0]), min(max(widths), available[1])

    def _needed(self, frame_size: FrameSize, spec: InputSpec) -> FrameSize:
        """Return the size at which the picture has a pixel for each of the input."""
        if self.is_cropped:
            return spec.height, spec.width
        shown = shown_part(frame_size, spec)
        return (
            round(frame_size[0] * shown.input_height / shown.height),
            round(frame_size[1] * shown.input_width / shown.width),
        )


def _limited(size: FrameSize, side: int | None) -> FrameSize:
    factor = 1.0 if side is None else min(1.0, side / max(size))
    return round(size[0] * factor), round(size[1] * factor)


def picture_grid(
    formats: Sequence[PictureFormat], qualities: Sequence[int], sides: Sequence[int | None]
) -> list[PictureCoding]:
    """Return every format at every quality and size; a lossless format has no qualities."""
    return [
        PictureCoding(name, quality, side)
        for name in formats
        for quality in ([100] if name in LOSSLESS else qualities)
        for side in sides
    ]
