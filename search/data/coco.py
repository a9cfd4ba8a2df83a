"""COCO instances files: boxes on images, and which category each of a detector's classes is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.data.frames import Sampling
from search.data.ground_truth import BadTruth, BoxTruth, annotation, files_of, taken_of

MENTIONED = 12
"""Names that an error lists at most."""

Category = str | int
"""A category by its name or its id."""
Classes = Sequence[Category] | Mapping[int, Category]
"""The category of every class of a detector, class 1 first; or of some classes, by class."""


@dataclass(frozen=True)
class _Instances:
    """What the file holds."""

    images: list[dict[str, Any]]
    """By their names, as a folder's frames are ordered."""
    boxes: dict[Any, list[dict[str, Any]]]
    """By the id of their image."""
    categories: tuple[dict[str, Any], ...]


def coco_truth(
    file: Path, images: Path, sampling: Sampling, classes: Classes | None = None
) -> BoxTruth:
    """Boxes from a COCO instances file; `images` is the folder of its `file_name`s.

    With `classes` only the categories that they name are measured: boxes of others are left out.

    Raises:
        BadTruth: the file is missing or malformed, or names images that are not there, or
            `classes` names a category that it does not have, or one twice.
    """
    known = _read(file)
    ids = None if classes is None else _ids(classes, known.categories, file)
    named = None if ids is None else set(ids.values() if isinstance(ids, Mapping) else ids)
    measured = [c for c in known.categories if named is None or c["id"] in named]
    taken = [known.images[i] for i in taken_of(len(known.images), sampling, file)]
    frames = files_of(tuple(images / str(entry["file_name"]) for entry in taken), file)
    annotations = tuple(
        tuple(b for b in known.boxes[entry["id"]] if named is None or b["category_id"] in named)
        for entry in taken
    )
    if not any(annotations):
        of = "" if named is None else f" of {_some([c['name'] for c in measured])}"
        raise BadTruth(
            f"labels {file}: no box{of} on any of the {len(taken)} images taken from it"
        )
    others = tuple(c["name"] for c in known.categories if c not in measured)
    return BoxTruth(frames, annotations, tuple(measured), ids, others)


def _read(file: Path) -> _Instances:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        entries = sorted(data["images"], key=lambda entry: str(entry["file_name"]))
        categories = tuple(
            {"id": int(entry["id"]), "name": str(entry["name"])} for entry in data["categories"]
        )
        known = {category["id"] for category in categories}
        by_image: dict[Any, list[dict[str, Any]]] = {entry["id"]: [] for entry in entries}
        for raw in data["annotations"]:
            by_image[raw["image_id"]].append(annotation(raw))
            if raw["category_id"] not in known:
                raise ValueError(f"category_id {raw['category_id']} is no category")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTruth(f"labels {file}: cannot be read ({error})") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadTruth(
            f"labels {file}: not a COCO instances file; images, annotations and categories are "
            f"needed ({type(error).__name__}: {error})"
        ) from error
    if not entries or not categories:
        raise BadTruth(f"labels {file}: holds no images or no categories")
    return _Instances(entries, by_image, categories)


def _ids(
    classes: Classes, categories: Sequence[Mapping[str, Any]], file: Path
) -> tuple[int, ...] | dict[int, int]:
    """The category ids that `classes` means, in the same form."""
    given = classes if isinstance(classes, Mapping) else dict(enumerate(classes, 1))
    ids = {index: _id(category, categories, file) for index, category in given.items()}
    twice = [(index, i) for index, i in ids.items() if Counter(ids.values())[i] > 1]
    if twice:
        index, repeated = twice[0]
        others = [str(k) for k, i in twice[1:] if i == repeated]
        raise BadTruth(
            f"labels {file}: `classes` gives category {given[index]!r} to class {index} and again "
            f"to {', '.join(others)}: each class needs a category of its own"
        )
    return ids if isinstance(classes, Mapping) else tuple(ids.values())


def _id(category: Category, categories: Sequence[Mapping[str, Any]], file: Path) -> int:
    key = "name" if isinstance(category, str) else "id"
    found = [int(known["id"]) for known in categories if known[key] == category]
    if len(found) == 1:
        return found[0]
    if found:
        told = f"several are named {category!r}: give the id, one of {_some(found)}"
    else:
        there = _some(known[key] for known in categories)
        told = f"no category has the {key} {category!r}; there are {there}"
    raise BadTruth(f"labels {file}: `classes`: {told}")


def _some(values: Any) -> str:
    """The values, or the first of many."""
    listed = [str(value) for value in values]
    rest = len(listed) - MENTIONED
    return ", ".join(listed[:MENTIONED]) + (f" and {rest} more" if rest > 0 else "")
