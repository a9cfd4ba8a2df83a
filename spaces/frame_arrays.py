"""Take camera frames as programs hold them: arrays, tensors, pictures, stacks and sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import numpy as np
from torch import Tensor

from spaces.errors import BadInput
from spaces.inputs import Frame

CHANNELS = (1, 3, 4)
"""Channels of a frame in grey, in RGB, and in RGB with an alpha channel."""


def as_frames(given: object) -> list[Frame]:
    """Return one frame or several as uint8 (height, width, 3) RGB arrays.

    A frame is a uint8 array or tensor (height, width, 3), or an image of Pillow. A grey frame,
    (height, width) or (height, width, 1), has its value in all three channels; the alpha channel
    of a frame (height, width, 4) is left out. Several frames are a stack (frames, height, width,
    channels), or a sequence of frames of any sizes. A uint8 RGB array is returned as it is.

    Raises:
        BadInput: a frame has another shape or type, or there is no frame.
    """
    frames = [_as_frame(item, number) for number, item in enumerate(_items(_as_array(given)))]
    if not frames:
        raise BadInput("no frame was given; at least one is needed")
    return frames


def _as_array(given: Any) -> Any:
    """Return an image, or whatever else turns itself into an array, as an array."""
    if isinstance(given, (np.ndarray, Tensor)):
        return given
    if hasattr(given, "convert") and hasattr(given, "mode"):
        # Pillow's numbers of another depth, modes I and F, become arrays that are refused below.
        return np.asarray(given if str(given.mode)[0] in "IF" else given.convert("RGB"))
    return np.asarray(given) if hasattr(given, "__array__") else given


def _items(given: Any) -> list[Any]:
    """Return the frames of a stack or a sequence; anything else is meant as one frame."""
    if isinstance(given, (np.ndarray, Tensor)):
        several = given.ndim == 4 or (given.ndim == 1 and given.dtype == object)
        return list(given) if several else [given]
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        return [given]
    return list(given)


def _as_frame(item: object, number: int) -> Frame:
    pixels = _as_array(item)
    if not isinstance(pixels, (np.ndarray, Tensor)):
        raise BadInput(_refusal(number, type(item).__name__, (), _opening(item)))
    kind, shape = str(pixels.dtype).removeprefix("torch."), tuple(pixels.shape)
    if kind != "uint8" or not _is_frame_shape(shape):
        advice = _shape_advice(pixels, shape) or _value_advice(pixels, kind)
        raise BadInput(_refusal(number, kind, shape, advice))
    return _in_colour(pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy())


def _is_frame_shape(shape: tuple[int, ...]) -> bool:
    if 0 in shape:
        return False
    if len(shape) == 2:
        # So few columns are a row of a colour frame.
        return shape[1] > max(CHANNELS)
    return len(shape) == 3 and shape[2] in CHANNELS


def _in_colour(pixels: Frame) -> Frame:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, :3]


def _refusal(number: int, kind: str, shape: tuple[int, ...], advice: str) -> str:
    return (
        f"frame {number}: {kind} of shape {shape}; a frame is a uint8 array (height, width, 3) in "
        f"RGB order{': ' if advice else ''}{advice}"
    )


def _opening(item: object) -> str:
    """Return how to make an array of something else."""
    if isinstance(item, (str, bytes, PathLike)):
        return "open an image with PIL.Image.open"
    return "make it one with np.asarray"


def _shape_advice(pixels: Frame | Tensor, shape: tuple[int, ...]) -> str:
    """Return how to bring an array into the shape of a frame; empty if that is not known."""
    if len(shape) != 3 or shape[2] in CHANNELS or 0 in shape:
        return ""
    if shape[0] in CHANNELS:
        move = "permute" if isinstance(pixels, Tensor) else "transpose"
        return f"its channels come first, so give frame.{move}(1, 2, 0)"
    return "a stack of grey frames is given as frames[..., None]"


def _value_advice(pixels: Frame | Tensor, kind: str) -> str:
    """Return how to convert values of another type; empty if that is not known."""
    if kind in ("uint8", "object") or 0 in pixels.shape or kind.startswith(("<U", "complex")):
        return ""
    cast = "to(torch.uint8)" if isinstance(pixels, Tensor) else "astype(np.uint8)"
    if kind == "bool":
        return f"give frame.{cast} * 255"
    low, high = float(pixels.min()), float(pixels.max())
    values = f"its values lie from {low:.6g} to {high:.6g}"
    if low < 0 or not np.isfinite(high):
        return f"{values}, so give the frame as it was before it was normalised"
    if "float" in kind and high <= 1:
        return f"{values}, so give (frame * 255).round().{cast}"
    if high <= 255:
        return f"{values}, so give frame{'.round()' if 'float' in kind else ''}.{cast}"
    if kind == "uint16":
        return f"{values}, so give (frame // 257).{cast}"
    return f"{values}, so scale them to 0 to 255"
