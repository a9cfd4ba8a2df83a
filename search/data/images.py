"""Read one image file as a frame: upright, in RGB, with 8 bits per colour."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Hashable
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from spaces.errors import MergeSearchError
from spaces.inputs import Frame
from spaces.tasks.task import FrameSize

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Those that torchvision's ImageFolder reads."""
DAMAGE = (OSError, Image.DecompressionBombError, SyntaxError, ValueError)
"""Errors that files raise which are missing, damaged or no images."""
BITS_PER_SAMPLE = 258
"""The TIFF tag."""

_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""The filter of those that Pillow's own modules raise, as `warnings.filters` holds it."""
_filters_lock = Lock()

PictureSize = tuple[int, int]
"""(width, height) in pixels."""
Reduction = Callable[[FrameSize], int]
"""From the (height, width) of a picture to how many times smaller it may be read: a divisor of
both, out of 1, 2, 4 and 8."""


class BadFrames(MergeSearchError):
    """Frames cannot be found or read, or there are too few."""


class ImageFile(Protocol):
    """The file of an image: a path on this machine, or an address. As text it names the file."""

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def resolve(self) -> Hashable:
        """Return what identifies the file, however it was named."""
        ...


class CheckedImage(NamedTuple):
    """An image file after it has been read once."""

    digest: bytes
    """The SHA-256 of its content; empty if it could not be read."""
    damage: str
    """Why it is no frame; empty if it is one."""


class Picture(NamedTuple):
    """The pixels of a frame, of which there may be fewer than the frame has."""

    pixels: Frame
    frame_size: FrameSize
    """(height, width) of the frame in its own pixels."""


def whole_size(size: FrameSize) -> int:
    """Return 1: a picture of any size is read with all of its pixels."""
    return 1


def read_image(path: ImageFile) -> Frame:
    """Return an image file as uint8 (H, W, 3) RGB, turned upright as its EXIF data say.

    Grey values of 9 to 16 bits keep their 8 highest bits, as Pillow keeps those of colours.
    Transparency is dropped. Of an animation or of several pages, the first is read.

    Raises:
        BadFrames: the file is missing or damaged, or its values have no defined range.
    """
    return read_picture(path, whole_size).pixels


def read_picture(path: ImageFile, reduction: Reduction) -> Picture:
    """Return an image file as `read_image` does, smaller if it is a JPEG file and may be.

    A JPEG file holds frequencies of squares of 8 x 8 pixels. Decoding only the low ones gives a
    picture of 1/2, 1/4 or 1/8 of the size in less time.

    Raises:
        BadFrames: as `read_image`.
    """
    try:
        with _open_content(path.read_bytes()) as image:
            factor = _reduce(image, reduction)
            pixels = np.asarray(_decode(image), dtype=np.uint8)
        return Picture(pixels, (factor * pixels.shape[0], factor * pixels.shape[1]))
    except DAMAGE as error:
        raise BadFrames(
            f"image {path}: cannot be read ({describe_damage(error)}); copy it again from its "
            "source"
        ) from error


def read_size(path: ImageFile) -> PictureSize:
    """Return the size of an image as `read_image` returns it, without decoding the image.

    Raises:
        BadFrames: the file is missing or damaged.
    """
    try:
        with _open_content(path.read_bytes()) as image:
            return _upright_size(image)
    except DAMAGE as error:
        raise BadFrames(
            f"image {path}: cannot be read ({describe_damage(error)}); copy it again from its "
            "source"
        ) from error


def check_image(path: ImageFile) -> CheckedImage:
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


def _reduce(image: Image.Image, reduction: Reduction) -> int:
    """Have a JPEG picture decoded at a fraction of its size; return how many times smaller.

    Colours for print are mixed after decoding, and not in proportion: they are read whole.
    """
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return 1
    factor = reduction(_upright_size(image)[::-1])
    if factor > 1:
        image.draft(image.mode, (image.width // factor, image.height // factor))
    return factor


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
        _ignore_pillow_warnings()
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ValueError("it is no image of a format that Pillow reads") from None


def _ignore_pillow_warnings() -> None:
    """Drop Pillow's warnings: they are about damaged EXIF data, or about very large pictures.

    They stay dropped. Filters belong to the process, and pictures are read in threads while the
    models run: a thread that restored them would undo what another has set meanwhile.
    """
    if warnings.filters[:1] != [_PILLOW_WARNINGS]:
        with _filters_lock:
            warnings.filterwarnings("ignore", module=r"PIL\.")


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
    _ignore_pillow_warnings()
    with contextlib.suppress(Exception):  # whatever its parser trips over
        ImageOps.exif_transpose(image, in_place=True)


def _upright_size(image: Image.Image) -> PictureSize:
    """Return the size of a picture once it is turned upright."""
    width, height = image.size
    return (height, width) if _lies_on_its_side(image) else (width, height)


def _lies_on_its_side(image: Image.Image) -> bool:
    """Whether the orientation of the EXIF data exchanges width and height."""
    _ignore_pillow_warnings()
    with contextlib.suppress(Exception):  # whatever its parser trips over
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return False


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image  # Pillow would copy it
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
