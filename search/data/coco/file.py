"""The content of a COCO instances file: images, annotations and categories, field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.data.entry_fields import (
    entry_place,
    float_number,
    id_of,
    list_texts,
    required_field,
    short_text,
    whole_number,
)
from search.data.ground_truth import BadTruth
from search.data.images import PictureSize
from spaces.json_text import load_json

REQUIRED_LISTS = "a COCO instances file needs the lists images, annotations and categories"


@dataclass(frozen=True)
class ListedImage:
    """An entry of `images`."""

    id: Hashable
    file_name: str
    size: PictureSize | None
    """None where the file gives none."""


@dataclass(frozen=True)
class Annotation:
    """An entry of `annotations`."""

    label: str
    """Its id, or its number in the list, for messages."""
    image_id: Hashable
    category_id: int
    bbox: tuple[float, float, float, float] | None
    """x, y, width, height as the file gives them, or around the polygons of `segmentation`."""
    area: float | None
    iscrowd: int


@dataclass(frozen=True)
class CocoFile:
    """A COCO instances file. Its ids are whole numbers where they are written as such in text."""

    path: Path
    images: tuple[ListedImage, ...]
    """Ordered by file name, as a folder's frames are."""
    annotations: tuple[Annotation, ...]
    categories: tuple[dict[str, Any], ...]
    """Each with `id` and `name`."""

    @property
    def labelled_categories(self) -> frozenset[int]:
        """The ids of the categories that have annotations."""
        return frozenset(annotation.category_id for annotation in self.annotations)


def read_coco_file(path: Path) -> CocoFile:
    """Read a COCO instances file.

    Raises:
        BadTruth: the file is missing, or an entry is malformed; the message names both.
    """
    data = _load(path)
    try:
        images = [_image(entry, k) for k, entry in enumerate(_entries(data, "images"), 1)]
        categories = [
            _category(entry, k) for k, entry in enumerate(_entries(data, "categories"), 1)
        ]
        annotations = [
            _annotation(entry, k) for k, entry in enumerate(_entries(data, "annotations"), 1)
        ]
        _check_images(images)
        _check_categories(categories, annotations)
    except ValueError as error:
        raise BadTruth(f"labels {path}: {error}") from error
    images.sort(key=lambda image: image.file_name)
    return CocoFile(path, tuple(images), tuple(annotations), tuple(categories))


def _load(path: Path) -> Any:
    """Return the JSON data of a file; a byte-order mark is accepted."""
    try:
        return load_json(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise BadTruth(f"labels {path}: cannot be read ({error})") from error
    except ValueError as error:
        raise BadTruth(f"labels {path}: is not JSON ({error}); {REQUIRED_LISTS}") from error


def _entries(data: Any, key: str) -> Sequence[Mapping[str, Any]]:
    """Return the entries of one of the file's lists."""
    entries = data.get(key) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"has no list `{key}`: {REQUIRED_LISTS}")
    if not entries and key != "annotations":
        raise ValueError(f"its list `{key}` is empty: {REQUIRED_LISTS}")
    for k, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise ValueError(f"`{key}`: entry {k} must be a mapping, not {short_text(entry)}")
    return entries


def _image(entry: Mapping[str, Any], number: int) -> ListedImage:
    place = entry_place("image", entry, number)
    name = required_field(entry, "file_name", place)
    if not isinstance(name, str):
        raise ValueError(f"{place}: file_name must be text, not {short_text(name)}")
    width, height = (_side(entry, key, place) for key in ("width", "height"))
    size = None if width is None or height is None else (width, height)
    return ListedImage(id_of(entry, "id", place), name, size)


def _side(entry: Mapping[str, Any], key: str, place: str) -> int | None:
    """Return the width or height of an image; None if it is missing or a placeholder."""
    if entry.get(key) is None:
        return None
    side = whole_number(entry, key, place)
    return side if side > 0 else None


def _category(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    place = entry_place("category", entry, number)
    return {
        "id": whole_number(entry, "id", place),
        "name": str(required_field(entry, "name", place)),
    }


def _annotation(entry: Mapping[str, Any], number: int) -> Annotation:
    place = entry_place("annotation", entry, number)
    return Annotation(
        place.removeprefix("annotation "),
        id_of(entry, "image_id", place),
        whole_number(entry, "category_id", place),
        _bbox(entry, place),
        None if entry.get("area") is None else float_number(entry["area"], f"{place}: area"),
        0 if entry.get("iscrowd") is None else whole_number(entry, "iscrowd", place),
    )


def _bbox(entry: Mapping[str, Any], place: str) -> tuple[float, float, float, float] | None:
    """Return the box of an annotation; None if it has neither a box nor polygons."""
    raw = entry.get("bbox")
    if raw is None or raw == []:
        return _polygon_box(entry.get("segmentation"))
    if not isinstance(raw, list) or len(raw) != 4:
        raise ValueError(
            f"{place}: bbox must be four numbers, x, y, width and height, not {short_text(raw)}"
        )
    x, y, width, height = (float_number(value, f"{place}: bbox") for value in raw)
    return x, y, width, height


def _polygon_box(segmentation: Any) -> tuple[float, float, float, float] | None:
    """Return the box around polygons [[x1, y1, x2, y2, ...], ...]; None of anything else."""
    polygons = segmentation if isinstance(segmentation, list) else []
    if not polygons or not all(isinstance(p, list) and len(p) % 2 == 0 for p in polygons):
        return None
    values = [value for polygon in polygons for value in polygon]
    if not values or not all(type(value) in (int, float) for value in values):
        return None
    xs, ys = values[::2], values[1::2]
    left, top = float(min(xs)), float(min(ys))
    return left, top, max(xs) - left, max(ys) - top


def _check_images(images: Sequence[ListedImage]) -> None:
    for key, values in (
        ("id", [str(image.id) for image in images]),
        ("file_name", [image.file_name for image in images]),
    ):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise ValueError(
                f"`images` lists the {key} {list_texts(repeated)} more than once: boxes cannot "
                "be assigned to one image"
            )


def _check_categories(
    categories: Sequence[Mapping[str, Any]], annotations: Iterable[Annotation]
) -> None:
    counts = Counter(category["id"] for category in categories)
    repeated = [category_id for category_id, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"`categories` lists the id {list_texts(repeated)} more than once")
    for annotation in annotations:
        if annotation.category_id not in counts:
            raise ValueError(
                f"annotation {annotation.label}: category_id {annotation.category_id} is not in "
                f"`categories`, which has the ids {list_texts(sorted(counts))}"
            )
