"""Read one image file as a frame: upright, in RGB, with 8 bits per colour."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from spaces.errors import MergeSearchError
from spaces.inputs import Frame

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Those that torchvision's ImageFolder reads."""
DAMAGE = (OSError, Image.DecompressionBombError, SyntaxError, ValueError)
"""Errors that files raise which are missing, damaged or no images."""
BITS_PER_SAMPLE = 258
"""The TIFF tag."""

_filters_lock = Lock()
"""Python's warning filters belong to the process, and cameras are polled in threads."""


PictureSize = tuple[int, int]
"""(width, height) in pixels."""


class BadFrames(MergeSearchError):
    """Frames cannot be found or read, or there are too few."""


class CheckedImage(NamedTuple):
    """An image file after it has been read once."""

    digest: bytes
    """The SHA-256 of its content; empty if it could not be read."""
    damage: str
    """Why it is no frame; empty if it is one."""


def read_image(path: Path) -> Frame:
    """Return an image file as uint8 (H, W, 3) RGB, turned upright as its EXIF data say.

    Grey values of 9 to 16 bits keep their 8 highest bits, as Pillow keeps those of colours.
    Transparency is dropped. Of an animation or of several pages, the first is read.

    Raises:
        BadFrames: the file is missing or damaged, or its values have no defined range.
    """
    try:
        content = path.read_bytes()  # now: a file that is slow to come must not hold the lock
        with _open_content(content) as image:
            return np.asarray(_decode(image), dtype=np.uint8)
    except DAMAGE as error:
        raise BadFrames(
            f"image {path}: cannot be read ({describe_damage(error)}); copy it again from its "
            "source"
        ) from error


def read_size(path: Path) -> PictureSize:
    """Return the size of an image as `read_image` returns it, without decoding the image.

    Raises:
        BadFrames: the file is missing or damaged.
    """
    try:
        with _open_content(path.read_bytes()) as image:
            width, height = image.size
            return (height, width) if _lies_on_its_side(image) else (width, height)
    except DAMAGE as error:
        raise BadFrames(
            f"image {path}: cannot be read ({describe_damage(error)}); copy it again from its "
            "source"
        ) from error


def check_image(path: Path) -> CheckedImage:
    """Read an image file once, and find whether `read_image` would raise.

    Only decoding shows damage inside a file that ends properly. A JPEG picture is decoded at an
    eighth of its size: that reads all of its data, so it raises whenever decoding at full size
    does, in half the time.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return CheckedImage(b"", describe_damage(error))
    digest = hashlib.sha256(content).digest()
    try:
        with _open_content(content) as image:
            image.draft(image.mode, (1, 1))  # has no effect on other formats
            _decode(image)
    except DAMAGE as error:
        return CheckedImage(digest, describe_damage(error))
    return CheckedImage(digest, "")


def describe_damage(error: BaseException | None) -> str:
    """Return in words why a file cannot be read; the path is left out, since messages name it."""
    return str(getattr(error, "strerror", None) or error)


def _decode(image: Image.Image) -> Image.Image:
    """Return the picture upright, in RGB, with 8 bits per colour.

    Raises:
        OSError, ValueError, SyntaxError: it is damaged, or its values have no defined range.
    """
    _check_range(image)
    image.load()
    _turn_upright(image)
    return _convert_to_rgb(image)


def _open_content(content: bytes) -> Image.Image:
    """Read the header of an image file, and decode nothing yet.

    Raises:
        OSError, ValueError, SyntaxError, DecompressionBombError: it is damaged.
    """
    try:
        with _without_warnings():
            return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ValueError("it is no image of a format that Pillow reads") from None


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Drop warnings: Pillow's are about damaged EXIF data, or about very large pictures."""
    with _filters_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_range(image: Image.Image) -> None:
    """Check that the brightest value an image may hold is known.

    Raises:
        ValueError: its values are floating-point numbers or integers of 32 bits.
    """
    if image.mode == "F" or (image.mode == "I" and _bits_per_sample(image) > 16):
        kind = "floating-point numbers" if image.mode == "F" else "integers of 32 bits"
        raise ValueError(f"its values are {kind}, of which white is not defined: use 8 or 16 bits")


def _turn_upright(image: Image.Image) -> None:
    """Apply the orientation of the EXIF data; damaged data have none."""
    with _without_warnings(), contextlib.suppress(Exception):  # whatever its parser trips over
        ImageOps.exif_transpose(image, in_place=True)


def _lies_on_its_side(image: Image.Image) -> bool:
    """Whether the orientation of the EXIF data exchanges width and height."""
    with _without_warnings(), contextlib.suppress(Exception):  # whatever its parser trips over
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return False


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16) >> (_bits_per_sample(image) - 8)
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode == "P":  # by way of RGBA: Pillow warns about transparency that is dropped
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _bits_per_sample(image: Image.Image) -> int:
    """Return the bits of each grey value: Pillow widens those of PNG and PGM files to 16."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(BITS_PER_SAMPLE, (16,))[0])
