"""COCO instances files: boxes on images, and the category of each class of a detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.data.frames import Sampling
from search.data.ground_truth import (
    BadTruth,
    BoxTruth,
    coco_annotation,
    existing_images,
    sample_indices,
)
from spaces.json_text import load_json

MAX_LISTED = 12
"""The most names or ids that an error message lists."""

Category = str | int
"""A category by its name or its id."""
ClassCategories = Sequence[Category] | Mapping[int, Category]
"""The category of every class of a detector, class 1 first; or of some classes, by class."""


@dataclass(frozen=True)
class _Instances:
    """The content of a COCO instances file."""

    images: list[dict[str, Any]]
    """Ordered by file name, as a folder's frames are."""
    boxes: dict[Any, list[dict[str, Any]]]
    """By image id."""
    categories: tuple[dict[str, Any], ...]


def coco_truth(
    file: Path, images: Path, sampling: Sampling, classes: ClassCategories | None = None
) -> BoxTruth:
    """Read boxes from a COCO instances file; `images` is the folder of its `file_name`s.

    With `classes`, only the categories that it names are scored; boxes of others are left out.

    Raises:
        BadTruth: the file is missing or malformed, or names images that do not exist; or
            `classes` names an unknown category, or one category twice.
    """
    instances = _read(file)
    ids = None if classes is None else _category_ids(classes, instances.categories, file)
    chosen = None if ids is None else set(ids.values() if isinstance(ids, Mapping) else ids)
    categories = [c for c in instances.categories if chosen is None or c["id"] in chosen]
    indices = sample_indices(len(instances.images), sampling, file)
    sampled = [instances.images[i] for i in indices]
    frames = existing_images(tuple(images / str(image["file_name"]) for image in sampled), file)
    annotations = tuple(
        tuple(
            box
            for box in instances.boxes[image["id"]]
            if chosen is None or box["category_id"] in chosen
        )
        for image in sampled
    )
    if not any(annotations):
        of = "" if chosen is None else f" of {_listed(c['name'] for c in categories)}"
        raise BadTruth(
            f"labels {file}: no box{of} on any of the {len(sampled)} images sampled from it"
        )
    unscored = tuple(c["name"] for c in instances.categories if c not in categories)
    return BoxTruth(frames, annotations, tuple(categories), ids, unscored)


def _read(file: Path) -> _Instances:
    try:
        data = load_json(file.read_text(encoding="utf-8"))
        images = sorted(data["images"], key=lambda image: str(image["file_name"]))
        categories = tuple(
            {"id": int(entry["id"]), "name": str(entry["name"])} for entry in data["categories"]
        )
        boxes = _boxes_by_image(data["annotations"], images, categories)
    except (OSError, UnicodeDecodeError) as error:
        raise BadTruth(f"labels {file}: cannot be read ({error})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BadTruth(
            f"labels {file}: is not a COCO instances file, which needs images, annotations and "
            f"categories ({type(error).__name__}: {error})"
        ) from error
    if not images or not categories:
        raise BadTruth(f"labels {file}: holds no images or no categories")
    return _Instances(images, boxes, categories)


def _boxes_by_image(
    annotations: Iterable[Mapping[str, Any]],
    images: Iterable[Mapping[str, Any]],
    categories: Iterable[Mapping[str, Any]],
) -> dict[Any, list[dict[str, Any]]]:
    category_ids = {category["id"] for category in categories}
    boxes: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    for raw in annotations:
        boxes[raw["image_id"]].append(coco_annotation(raw))
        if raw["category_id"] not in category_ids:
            raise ValueError(f"category_id {raw['category_id']} is not in categories")
    return boxes


def _category_ids(
    classes: ClassCategories, categories: Sequence[Mapping[str, Any]], file: Path
) -> tuple[int, ...] | dict[int, int]:
    """Return the category ids that `classes` names, in the same form."""
    category_by_class = classes if isinstance(classes, Mapping) else dict(enumerate(classes, 1))
    ids = {index: _id(category, categories, file) for index, category in category_by_class.items()}
    repeated = [(index, i) for index, i in ids.items() if Counter(ids.values())[i] > 1]
    if repeated:
        first, category_id = repeated[0]
        others = [str(index) for index, i in repeated[1:] if i == category_id]
        raise BadTruth(
            f"labels {file}: `classes` gives category {category_by_class[first]!r} to class "
            f"{first} and again to {', '.join(others)}: each class needs its own category"
        )
    return ids if isinstance(classes, Mapping) else tuple(ids.values())


def _id(category: Category, categories: Sequence[Mapping[str, Any]], file: Path) -> int:
    key = "name" if isinstance(category, str) else "id"
    ids = [int(entry["id"]) for entry in categories if entry[key] == category]
    if len(ids) == 1:
        return ids[0]
    if ids:
        problem = f"several are named {category!r}: give the id, one of {_listed(ids)}"
    else:
        available = _listed(entry[key] for entry in categories)
        problem = f"no category has the {key} {category!r}; there are {available}"
    raise BadTruth(f"labels {file}: `classes`: {problem}")


def _listed(values: Iterable[Any]) -> str:
    """Join the values with commas, and count those beyond `MAX_LISTED`."""
    texts = [str(value) for value in values]
    rest = len(texts) - MAX_LISTED
    return ", ".join(texts[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
