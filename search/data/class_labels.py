"""Class labels from class folders, or from the ReaL list for ImageNet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.data.entry_fields import list_texts
from search.data.frames import ImageFiles, Remarks, Sampling
from search.data.ground_truth import BadTruth, ClassTruth
from search.data.image_folders import is_hidden, joined, read_folder
from search.data.labelled_images import labelled_classes, sample_indices
from spaces.json_text import load_json


def folder_truth(folder: Path, sampling: Sampling, names: Sequence[str] = ()) -> ClassTruth:
    """Read a folder with one sub-folder per class, numbered in alphabetical order.

    This is the layout of torchvision's ImageFolder. With `names`, the names of the classes, class
    0 first, a sub-folder has the number of its name. Hidden sub-folders are no classes, and one
    without images keeps its number.

    Raises:
        BadTruth: the folder has no sub-folder with images, or one that is none of `names`.
    """
    folders = _class_folders(folder)
    class_names = tuple(names) or tuple(path.name for path in folders)
    unknown = [path.name for path in folders if path.name not in class_names]
    if unknown:
        raise BadTruth(
            f"image folder {folder}: {list_texts(unknown)} is none of `classes`, which are "
            f"{list_texts(class_names)}"
        )
    contents = {path.name: read_folder(path) for path in folders}
    images = [(p, class_names.index(name)) for name, of in contents.items() for p in of.images]
    if not images:
        raise BadTruth(f"image folder {folder}: needs one sub-folder of images per class")
    sampled = [images[i] for i in sample_indices(len(images), sampling, folder)]
    remarks = joined(tuple(contents.values())).remarks()
    notes = tuple(f"image folder {folder}: {remark}" for remark in remarks)
    frames = ImageFiles(tuple(path for path, _ in sampled), Remarks(notes))
    without = [name for name in class_names if name not in contents or not contents[name].images]
    labels = tuple(frozenset((label,)) for _, label in sampled)
    gaps = (f"no images of {list_texts(without)}",) if without else ()
    return ClassTruth(frames, labels, class_names, gaps)


def real_truth(file: Path, images: Path, sampling: Sampling) -> ClassTruth:
    """Read ReaL labels: entry k of the JSON list holds all correct classes of image k.

    Image k is ILSVRC2012_val_0000000k, counted from 1; `images` may hold any subset of the images,
    also in sub-folders. An image without a correct class is left out.

    Raises:
        BadTruth: the file is missing or malformed, or an image has no entry in it.

    Source: Beyer et al. 2020, "Are we done with ImageNet?".
    """
    labels = _read_real_labels(file)
    content = read_folder(images)
    paths = content.images
    if not paths:
        raise BadTruth(f"labels {file}: no images in {images}")
    sampled = [paths[i] for i in sample_indices(len(paths), sampling, images)]
    return labelled_classes(
        [(path, labels[_real_position(path, len(labels), file)]) for path in sampled],
        file,
        images,
        notes=content.remarks(),
    )


def _class_folders(folder: Path) -> list[Path]:
    """Return the visible sub-folders in alphabetical order."""
    folders = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in folders if path.is_dir() and not is_hidden(path.name))


def _read_real_labels(file: Path) -> list[frozenset[int]]:
    try:
        labels = load_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadTruth(f"labels {file}: cannot be read ({error})") from error
    except ValueError as error:
        raise BadTruth(f"labels {file}: is not JSON ({error})") from error
    if not isinstance(labels, list) or not all(_is_indices(entry) for entry in labels):
        raise BadTruth(f"labels {file}: must be a list with a list of class indices per image")
    return [frozenset(entry) for entry in labels]


def _is_indices(entry: Any) -> bool:
    return isinstance(entry, list) and all(type(i) is int and i >= 0 for i in entry)


def _real_position(path: Path, count: int, file: Path) -> int:
    """Return the index of an image's entry in the ReaL list."""
    name = re.fullmatch(r"ILSVRC2012_val_(\d{8})", path.stem)
    if not name or not 1 <= int(name[1]) <= count:
        raise BadTruth(
            f"labels {file}: image {path} must be named ILSVRC2012_val_00000001 to "
            f"ILSVRC2012_val_{count:08d}"
        )
    return int(name[1]) - 1
