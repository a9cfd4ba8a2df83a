"""Class labels: from a CSV file, from class folders, or from ReaL's list for ImageNet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.data.frames import IMAGE_SUFFIXES, ImageFiles, Sampling
from search.data.ground_truth import BadTruth, ClassTruth, files_of, taken_of


def csv_truth(file: Path, sampling: Sampling) -> ClassTruth:
    """Labels from a CSV file: `path`, relative to the file, and `label_index` or `label_indices`.

    The latter holds all right classes of a frame (3;17). A frame of none is left out.

    Raises:
        BadTruth: the file is missing or malformed, or names images that are not there.
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
    parse = _index if "label_index" in columns else _indices
    rows.sort(key=lambda row: row["path"] or "")  # as a folder's frames are ordered
    rows = [rows[i] for i in taken_of(len(rows), sampling, file)]
    return _labelled([(file.parent / (row["path"] or ""), parse(row, file)) for row in rows], file)


def folder_truth(folder: Path, sampling: Sampling) -> ClassTruth:
    """One sub-folder per class, in alphabetical order, as torchvision's ImageFolder has it."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    found = [(path, label) for label, sub in enumerate(classes) for path in _images(sub)]
    if not found:
        raise BadTruth(f"image folder {folder}: needs one sub-folder of images per class")
    taken = [found[i] for i in taken_of(len(found), sampling, folder)]
    frames = ImageFiles(tuple(path for path, _ in taken))
    return ClassTruth.single(frames, (label for _, label in taken))


def real_truth(file: Path, images: Path, sampling: Sampling) -> ClassTruth:
    """ReaL's labels: entry k of the JSON list holds all right classes of the k-th image.

    That is ILSVRC2012_val_0000000k, from 1; any of them may lie in or below the folder `images`.
    An image of no right class is left out.

    Raises:
        BadTruth: the file is missing or malformed, or an image is none of those that it is for.

    Source: Beyer et al. 2020, "Are we done with ImageNet?".
    """
    listed = _real_lists(file)
    found = _images(images)
    if not found:
        raise BadTruth(f"labels {file}: no images in {images}")
    taken = [found[i] for i in taken_of(len(found), sampling, images)]
    return _labelled([(path, listed[_place(path, len(listed), file)]) for path in taken], file)


def _labelled(found: Sequence[tuple[Path, frozenset[int]]], source: Path) -> ClassTruth:
    """The images that have a right class, with it."""
    scored = [(path, right) for path, right in found if right]
    if not scored:
        raise BadTruth(f"labels {source}: no right class for any of {len(found)} images")
    frames = files_of(tuple(path for path, _ in scored), source)
    return ClassTruth(frames, tuple(right for _, right in scored))


def _index(row: Mapping[str, str | None], file: Path) -> frozenset[int]:
    text = row["label_index"]
    if not text or not re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        raise BadTruth(
            f"labels {file}: label_index {text!r} of {row['path']} is not a whole number"
        )
    return frozenset((int(text),))


def _indices(row: Mapping[str, str | None], file: Path) -> frozenset[int]:
    text = row["label_indices"]
    if text is None or not re.fullmatch(r"\s*([0-9]{1,9}(\s*;\s*[0-9]{1,9})*)?\s*", text):
        raise BadTruth(
            f"labels {file}: label_indices {text!r} of {row['path']} must be whole numbers with "
            "; between them, as in 3;17, or nothing"
        )
    return frozenset(int(number) for number in text.split(";") if number.strip())


def _images(folder: Path) -> list[Path]:
    """In the order of a folder's frames."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _real_lists(file: Path) -> list[frozenset[int]]:
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadTruth(f"labels {file}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise BadTruth(f"labels {file}: is not JSON ({error})") from error
    if not isinstance(listed, list) or not all(_is_indices(entry) for entry in listed):
        raise BadTruth(f"labels {file}: must be a list with a list of class indices per image")
    return [frozenset(entry) for entry in listed]


def _is_indices(entry: Any) -> bool:
    return isinstance(entry, list) and all(type(i) is int and i >= 0 for i in entry)


def _place(path: Path, count: int, file: Path) -> int:
    """Which entry of ReaL's list is this image's."""
    name = re.fullmatch(r"ILSVRC2012_val_(\d{8})", path.stem)
    if not name or not 1 <= int(name[1]) <= count:
        raise BadTruth(
            f"labels {file}: image {path} must be named ILSVRC2012_val_00000001 to "
            f"ILSVRC2012_val_{count:08d}"
        )
    return int(name[1]) - 1
