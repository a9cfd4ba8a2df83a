"""Ground truth of segmentations: a picture for each image, whose pixels are class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from search.data.entry_fields import list_texts
from search.data.frames import ImageFiles, Remarks, Sampling
from search.data.ground_truth import BadTruth, MaskTruth
from search.data.image_folders import read_folder
from search.data.images import read_size
from search.data.labelled_images import sample_indices

MASK_SUFFIX = ".png"
NUMBERED_MODES = ("L", "P", "I;16", "I", "1")
"""Pillow's modes of pictures with one number per pixel; that of a palette is its index."""


@dataclass(frozen=True)
class ImageMasks:
    """A folder of PNG masks that have the names of images, in folders of the same names."""

    folder: Path
    images: Path
    ignore: int
    """The value of pixels that have no class."""


def folder_masks(masks: ImageMasks, sampling: Sampling, names: Sequence[str] = ()) -> MaskTruth:
    """Read the images of a folder that have a mask.

    Raises:
        BadTruth: no image has a mask, or a mask is no picture of class numbers, or has another
            size than its image.
    """
    folder, images = masks.folder, masks.images
    content, masks_by_stem = read_folder(images), _by_stem(folder)
    pairs = [
        (path, masks_by_stem[stem])
        for path in content.images
        if (stem := _stem(path, images)) in masks_by_stem
    ]
    if not pairs:
        raise BadTruth(
            f"masks {folder}: no mask of an image of {images}: the mask of DIR/NAME.jpg is "
            f"DIR/NAME{MASK_SUFFIX}"
        )
    sampled = [pairs[i] for i in sample_indices(len(pairs), sampling, folder)]
    for image, mask in sampled:
        _check_mask(mask, image)
    notes = [*content.remarks()]
    if missing := len(content.images) - len(pairs):
        notes.append(f"{missing} images without a mask are left out")
    frames = ImageFiles(
        tuple(image for image, _ in sampled),
        Remarks(tuple(f"masks {folder}: {note}" for note in notes)),
    )
    return MaskTruth(frames, tuple(mask for _, mask in sampled), masks.ignore, tuple(names))


def read_mask(path: Path) -> NDArray[np.int64]:
    """Return the class of each pixel, (height, width)."""
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=np.int64)


def check_mask_classes(truth: MaskTruth, num_classes: int, model: str) -> None:
    """Check that the masks show classes of the model.

    Raises:
        BadTruth: they show none, or one that the model does not have and that is not ignored.
    """
    if len(truth.names) > num_classes:
        raise BadTruth(
            f"truth.{model}: `classes` names {len(truth.names)} classes "
            f"({list_texts(truth.names)}), but it has only {num_classes} classes"
        )
    seen = False
    for path in truth.masks:
        values = np.unique(read_mask(path))
        classes = values[values != truth.ignore]
        seen = seen or len(classes) > 0
        if len(classes) and classes[-1] >= num_classes:
            raise BadTruth(
                f"truth.{model}: mask {path} has the class {classes[-1]}, but the model has only "
                f"{num_classes} classes (0 to {num_classes - 1}); pixels of {truth.ignore} are "
                "ignored"
            )
    if not seen:
        raise BadTruth(f"truth.{model}: the masks have no pixel of a class")


def _by_stem(folder: Path) -> dict[str, Path]:
    return {
        _stem(path, folder): path
        for path in read_folder(folder).images
        if path.suffix.lower() == MASK_SUFFIX
    }


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _check_mask(mask: Path, image: Path) -> None:
    try:
        with Image.open(mask) as picture:
            picture.load()
            size, mode = picture.size, picture.mode
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadTruth(f"mask {mask}: cannot be read ({error})") from error
    if mode not in NUMBERED_MODES:
        raise BadTruth(
            f"mask {mask}: is a picture in colours (mode {mode}); write the number of the class "
            "of each pixel as a grey or palette PNG"
        )
    width, height = read_size(image)
    if size != (width, height):
        raise BadTruth(
            f"mask {mask}: is {size[0]}x{size[1]} pixels, but its image {width}x{height}"
        )
