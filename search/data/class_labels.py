"""Class labels from a CSV file, from class folders, or from the ReaL list for ImageNet."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.data.frames import ImageFiles, Remarks, Sampling
from search.data.ground_truth import BadTruth, ClassTruth, existing_images, sample_indices
from search.data.image_folders import is_hidden, joined, read_folder
from spaces.json_text import load_json


def csv_truth(file: Path, sampling: Sampling) -> ClassTruth:
    """Read a CSV file with the columns `path` and `label_index` or `label_indices`.

    Paths are relative to the file. `label_indices` lists all correct classes of a frame (3;17);
    a frame without any is left out.

    Raises:
        BadTruth: the file is missing or malformed, or names images that do not exist.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadTruth(f"labels {file}: cannot be read ({error})") from error
    columns = {"path", "label_index", "label_indices"} & set(rows[0] if rows else ())
    if len(columns) != 2 or "path" not in columns:
        raise BadTruth(
            f"labels {file}: needs a header line with path,label_index or path,label_indices, "
            "and rows"
        )
    parse = _parse_index if "label_index" in columns else _parse_indices
    rows.sort(key=lambda row: row["path"] or "")  # the order of a folder's frames
    rows = [rows[i] for i in sample_indices(len(rows), sampling, file)]
    return _class_truth(
        [(file.parent / (row["path"] or ""), parse(row, file)) for row in rows], file
    )


def folder_truth(folder: Path, sampling: Sampling) -> ClassTruth:
    """Read a folder with one sub-folder per class, numbered in alphabetical order.

    This is the layout of torchvision's ImageFolder.

    Raises:
        BadTruth: the folder has no sub-folder with images.
    """
    contents = [read_folder(sub) for sub in _class_folders(folder)]
    images = [(path, label) for label, of in enumerate(contents) for path in of.images]
    if not images:
        raise BadTruth(f"image folder {folder}: needs one sub-folder of images per class")
    sampled = [images[i] for i in sample_indices(len(images), sampling, folder)]
    notes = tuple(f"image folder {folder}: {remark}" for remark in joined(contents).remarks())
    frames = ImageFiles(tuple(path for path, _ in sampled), Remarks(notes))
    return ClassTruth.single(frames, (label for _, label in sampled))


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
    return _class_truth(
        [(path, labels[_real_position(path, len(labels), file)]) for path in sampled],
        file,
        content.remarks(),
    )


def _class_folders(folder: Path) -> list[Path]:
    """Return the visible sub-folders in alphabetical order."""
    folders = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in folders if path.is_dir() and not is_hidden(path.name))


def _class_truth(
    images: Sequence[tuple[Path, frozenset[int]]], source: Path, notes: Sequence[str] = ()
) -> ClassTruth:
    """Build ground truth from the images that have a correct class."""
    labelled = [(path, classes) for path, classes in images if classes]
    if not labelled:
        raise BadTruth(f"labels {source}: no correct class for any of {len(images)} images")
    frames = existing_images(tuple(path for path, _ in labelled), source, notes)
    return ClassTruth(frames, tuple(classes for _, classes in labelled))


def _parse_index(row: Mapping[str, str | None], file: Path) -> frozenset[int]:
    text = row["label_index"]
    if not text or not re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        raise BadTruth(
            f"labels {file}: label_index {text!r} of {row['path']} must be a whole number"
        )
    return frozenset((int(text),))


def _parse_indices(row: Mapping[str, str | None], file: Path) -> frozenset[int]:
    text = row["label_indices"]
    if text is None or not re.fullmatch(r"\s*([0-9]{1,9}(\s*;\s*[0-9]{1,9})*)?\s*", text):
        raise BadTruth(
            f"labels {file}: label_indices {text!r} of {row['path']} must be whole numbers "
            "separated by ; as in 3;17, or empty"
        )
    return frozenset(int(number) for number in text.split(";") if number.strip())


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
