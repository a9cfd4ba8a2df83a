"""Ground truth: class labels or boxes for frames that the statistics have not seen."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.frames import (
    IMAGE_SUFFIXES,
    FrameSet,
    ImageFiles,
    RenderedScenes,
    Sampling,
    Subset,
    scene,
)
from search.scenes import CLASSES, SceneSettings
from spaces.errors import MergeSearchError
from spaces.stages import Task


class BadTruth(MergeSearchError):
    """Labels that are missing, or match neither the images nor the model."""


@dataclass(frozen=True)
class ClassTruth:
    """One class index per frame."""

    frames: FrameSet
    labels: tuple[int, ...]


@dataclass(frozen=True)
class BoxTruth:
    """COCO ground truth: `annotations[k]` are frame k's, boxes as x, y, w, h in its pixels."""

    frames: FrameSet
    annotations: tuple[tuple[dict[str, Any], ...], ...]
    categories: tuple[dict[str, Any], ...] = field(repr=False)

    def category_ids(self, num_classes: int) -> list[int]:
        """The category id of each class of a detector, class 1 first.

        A detector with one class per category has them in the order of their ids; one with as
        many classes as the greatest id (COCO's 90) uses the ids themselves.

        Raises:
            BadTruth: neither fits.
        """
        ids = sorted(category["id"] for category in self.categories)
        if num_classes == len(ids):
            return ids
        if num_classes >= ids[-1]:
            return list(range(1, num_classes + 1))
        raise BadTruth(
            f"the detector has {num_classes} classes, the labels {len(ids)} categories with ids "
            f"up to {ids[-1]}: num_classes must be {len(ids)} or at least {ids[-1]}"
        )


Truth = ClassTruth | BoxTruth


def scenes_truth(settings: SceneSettings, count: int, task: Task) -> Truth:
    """The renderer's exact labels or boxes."""
    frames = RenderedScenes(settings, count)
    if task == "classification":
        return ClassTruth(frames, tuple(scene(settings, i).label for i in range(count)))
    categories = tuple({"id": i + 1, "name": name} for i, name in enumerate(CLASSES))
    return BoxTruth(frames, tuple(_scene_boxes(settings, i) for i in range(count)), categories)


def csv_truth(file: Path, sampling: Sampling) -> ClassTruth:
    """Labels from a CSV file with columns `path` (relative to the file) and `label_index`.

    Raises:
        BadTruth: the file is missing or malformed, or names images that are not there.
    """
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadTruth(f"labels {file}: cannot be read ({error})") from error
    if not rows or not {"path", "label_index"} <= set(rows[0]):
        raise BadTruth(f"labels {file}: needs a header line with path,label_index, and rows")
    rows.sort(key=lambda row: row["path"] or "")  # as a folder's frames are ordered
    rows = [rows[i] for i in _taken(len(rows), sampling, file)]
    paths = tuple(file.parent / (row["path"] or "") for row in rows)
    _check_present(paths, file)
    return ClassTruth(
        ImageFiles(paths), tuple(_label(row["label_index"], file, row["path"]) for row in rows)
    )


def folder_truth(folder: Path, sampling: Sampling) -> ClassTruth:
    """One sub-folder per class, in alphabetical order, as torchvision's ImageFolder has it."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    found = [
        (path, label)
        for label, sub in enumerate(classes)
        for path in sorted(sub.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise BadTruth(f"image folder {folder}: needs one sub-folder of images per class")
    taken = [found[i] for i in _taken(len(found), sampling, folder)]
    return ClassTruth(
        ImageFiles(tuple(path for path, _ in taken)), tuple(label for _, label in taken)
    )


def coco_truth(file: Path, images: Path, sampling: Sampling) -> BoxTruth:
    """Boxes from a COCO instances file; `images` is the folder of its `file_name`s.

    Raises:
        BadTruth: the file is missing or malformed, or names images that are not there.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        entries = sorted(data["images"], key=lambda entry: str(entry["file_name"]))
        categories = tuple(
            {"id": int(entry["id"]), "name": str(entry["name"])} for entry in data["categories"]
        )
        known = {category["id"] for category in categories}
        by_image: dict[Any, list[dict[str, Any]]] = {entry["id"]: [] for entry in entries}
        for annotation in data["annotations"]:
            by_image[annotation["image_id"]].append(_annotation(annotation))
            if annotation["category_id"] not in known:
                raise ValueError(f"category_id {annotation['category_id']} is no category")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTruth(f"labels {file}: cannot be read ({error})") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadTruth(
            f"labels {file}: not a COCO instances file; images, annotations and categories are "
            f"needed ({type(error).__name__}: {error})"
        ) from error
    if not entries or not categories:
        raise BadTruth(f"labels {file}: holds no images or no categories")
    taken = [entries[i] for i in _taken(len(entries), sampling, file)]
    paths = tuple(images / str(entry["file_name"]) for entry in taken)
    _check_present(paths, file)
    annotations = tuple(tuple(by_image[entry["id"]]) for entry in taken)
    if not any(annotations):
        raise BadTruth(f"labels {file}: no box on any of the {len(taken)} images taken from it")
    return BoxTruth(ImageFiles(paths), annotations, categories)


def part_of(truth: Truth, indices: Sequence[int]) -> Truth:
    """The truth of some of its frames."""
    frames = Subset(truth.frames, tuple(indices))
    if isinstance(truth, ClassTruth):
        return ClassTruth(frames, tuple(truth.labels[i] for i in indices))
    return BoxTruth(frames, tuple(truth.annotations[i] for i in indices), truth.categories)


def check_classes(truth: ClassTruth, num_classes: int, model: str) -> None:
    """Refuse labels that the classifier cannot answer."""
    worst = max(truth.labels)
    if worst >= num_classes:
        raise BadTruth(
            f"the labels for {model} go up to {worst}, but it has only {num_classes} classes "
            f"(0 to {num_classes - 1})"
        )


def _scene_boxes(settings: SceneSettings, index: int) -> tuple[dict[str, Any], ...]:
    rendered = scene(settings, index)
    return tuple(
        _annotation({"bbox": box.tolist(), "category_id": int(kind) + 1})
        for box, kind in zip(rendered.boxes, rendered.classes, strict=True)
    )


def _annotation(raw: dict[str, Any]) -> dict[str, Any]:
    x, y, width, height = (float(value) for value in raw["bbox"])
    return {
        "bbox": [x, y, width, height],
        "category_id": int(raw["category_id"]),
        "area": float(raw.get("area", width * height)),
        "iscrowd": int(raw.get("iscrowd", 0)),
    }


def _label(text: str, file: Path, path: str) -> int:
    if not text or not re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        raise BadTruth(f"labels {file}: label_index {text!r} of {path} is not a whole number")
    return int(text)


def _taken(available: int, sampling: Sampling, source: Path) -> range:
    taken = sampling.indices(available)
    if not taken:
        raise BadTruth(f"labels {source}: offset {sampling.offset} leaves none of {available}")
    return taken


def _check_present(paths: tuple[Path, ...], file: Path) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise BadTruth(
            f"labels {file}: {len(missing)} of {len(paths)} images are not there, "
            f"first {missing[0]}"
        )
