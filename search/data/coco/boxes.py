"""The boxes of COCO annotations, fitted to the pictures that they are on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from search.data.coco.file import Annotation
from search.data.entry_fields import list_texts
from search.data.ground_truth import coco_annotation
from search.data.images import PictureSize

BOX_ROUNDING = 1.0
"""Pixels by which a box may leave its picture unchanged: tools round differently."""

NO_BOX = "without a bbox or a polygon"
NO_SIZE = "with a width or height that is not above 0"
OUTSIDE = "wholly outside the picture"
UNLISTED = "of images that the file does not list"
CLIPPED = "clipped to the picture"


@dataclass(frozen=True)
class FittedBox:
    """An annotation as ground truth."""

    annotation: Annotation
    box: dict[str, Any] | None
    """In the form that pycocotools reads; None if the annotation is left out."""
    reason: str | None = None
    """Why the annotation is left out or changed; None if it is used as it is."""


@dataclass(frozen=True)
class AnnotatedPicture:
    """The annotations of one picture."""

    size: PictureSize
    annotations: Sequence[Annotation]


def fit_boxes(picture: AnnotatedPicture) -> list[FittedBox]:
    """Fit the boxes of a picture into it."""
    return [_fit(annotation, picture.size) for annotation in picture.annotations]


def check_box_units(pictures: Sequence[AnnotatedPicture]) -> None:
    """Check that the boxes are x, y, width, height in pixels.

    Raises:
        ValueError: they are likely corners, or shares of the picture's sides.
    """
    boxes = [
        (annotation.bbox, picture.size)
        for picture in pictures
        for annotation in picture.annotations
        if annotation.bbox is not None and _has_size(annotation.bbox)
    ]
    if not boxes:
        return
    if all(max(box) <= 1 < min(size) for box, size in boxes):
        raise ValueError(
            "all numbers of all boxes are at most 1, so they are likely shares of the picture's "
            "sides: bbox must be x, y, width, height in pixels"
        )
    corners = sum(not _fits(box, size) and _fits_as_corners(box, size) for box, size in boxes)
    if corners > len(boxes) / 2:
        raise ValueError(
            f"{corners} of {len(boxes)} boxes leave their picture, but would fit if they were "
            "corners x1, y1, x2, y2: bbox must be x, y, width, height"
        )


def describe_changes(fitted: Iterable[FittedBox]) -> tuple[str, ...]:
    """Return how many annotations are left out or changed, and which, one text per reason."""
    labels: dict[str, list[str]] = {}
    for box in fitted:
        if box.reason is not None:
            labels.setdefault(box.reason, []).append(box.annotation.label)
    return tuple(
        f"{_change(reason, len(ids))} (annotation {list_texts(ids)})"
        for reason, ids in labels.items()
    )


def _change(reason: str, count: int) -> str:
    if reason == CLIPPED:
        return f"{count} {'box' if count == 1 else 'boxes'} {reason}"
    return f"{count} annotation{'' if count == 1 else 's'} left out: {reason}"


def _fit(annotation: Annotation, size: PictureSize) -> FittedBox:
    if annotation.bbox is None:
        return FittedBox(annotation, None, NO_BOX)
    if not _has_size(annotation.bbox):
        return FittedBox(annotation, None, NO_SIZE)
    if _fits(annotation.bbox, size):
        return FittedBox(annotation, _record(annotation, annotation.bbox))
    x, y, width, height = annotation.bbox
    left, top = max(x, 0.0), max(y, 0.0)
    clipped = (left, top, min(x + width, size[0]) - left, min(y + height, size[1]) - top)
    if not _has_size(clipped):
        return FittedBox(annotation, None, OUTSIDE)
    return FittedBox(annotation, _record(annotation, clipped), CLIPPED)


def _record(annotation: Annotation, bbox: tuple[float, float, float, float]) -> dict[str, Any]:
    """Return a box with the area that the file gives, which no clipped box exceeds."""
    area = annotation.area
    if area is None or not math.isfinite(area) or area < 0:
        area = bbox[2] * bbox[3]
    if bbox != annotation.bbox:
        area = min(area, bbox[2] * bbox[3])
    return coco_annotation(
        {
            "bbox": bbox,
            "category_id": annotation.category_id,
            "area": area,
            "iscrowd": annotation.iscrowd,
        }
    )


def _has_size(bbox: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in bbox) and min(bbox[2:]) > 0


def _fits(bbox: Sequence[float], size: PictureSize) -> bool:
    x, y, width, height = bbox
    return _fits_as_corners((x, y, x + width, y + height), size)


def _fits_as_corners(bbox: Sequence[float], size: PictureSize) -> bool:
    x1, y1, x2, y2 = bbox
    return (
        -BOX_ROUNDING <= x1 < x2 <= size[0] + BOX_ROUNDING
        and -BOX_ROUNDING <= y1 < y2 <= size[1] + BOX_ROUNDING
    )
