"""Ground truth from a COCO instances file: boxes on images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.data.class_categories import ClassCategories, category_ids
from search.data.coco.boxes import (
    UNLISTED,
    AnnotatedPicture,
    FittedBox,
    check_box_units,
    describe_changes,
    fit_boxes,
)
from search.data.coco.file import Annotation, CocoFile, ListedImage, read_coco_file
from search.data.entry_fields import list_texts
from search.data.frames import Sampling
from search.data.ground_truth import BadTruth, BoxTruth
from search.data.images import BadFrames, PictureSize, read_size
from search.data.labelled_images import (
    ImageRoot,
    existing_images,
    sample_indices,
)

ANY_SIZE = (2**31, 2**31)
"""Stands for the size of a picture that is not known: every box fits."""


def coco_truth(
    file: Path,
    images: ImageRoot | Path,
    sampling: Sampling,
    classes: ClassCategories | None = None,
) -> BoxTruth:
    """Read boxes from a COCO instances file; `images` is the folder of its `file_name`s.

    With `classes`, only the categories that it names are scored; boxes of others are left out.
    So are annotations that no picture can show; the ground truth counts them.

    Raises:
        BadTruth: the file is missing or malformed, or names images that do not exist or have
            another size; or `classes` names an unknown category, or one category twice.
    """
    content = read_coco_file(file)
    ids = None if classes is None else category_ids(classes, content)
    chosen = None if ids is None else set(ids.values() if isinstance(ids, Mapping) else ids)
    categories = [c for c in content.categories if chosen is None or c["id"] in chosen]
    _check_names(categories, content)
    scored = {c["id"] for c in categories}
    sampled = [content.images[i] for i in sample_indices(len(content.images), sampling, file)]
    root = images if isinstance(images, ImageRoot) else ImageRoot(images)
    paths = [root.image_path(i.file_name, f"labels {file}: image {i.id}") for i in sampled]
    frames = existing_images(tuple(paths), file, root.folder)
    fitted = _fit_boxes(content, list(zip(sampled, paths, strict=True)), scored)
    annotations = tuple(tuple(b.box for b in boxes if b.box is not None) for boxes in fitted)
    changes = describe_changes([*_unlisted(content), *(box for boxes in fitted for box in boxes)])
    if not any(annotations):
        of = "" if chosen is None else f" of {list_texts(c['name'] for c in categories)}"
        because = f" ({'; '.join(changes)})" if changes else ""
        raise BadTruth(
            f"labels {file}: no box{of} on any of the {len(sampled)} images sampled from it"
            f"{because}"
        )
    return BoxTruth(
        frames,
        annotations,
        tuple(categories),
        ids,
        unscored=tuple(c["name"] for c in content.categories if c not in categories),
        empty=frozenset(scored) - content.labelled_categories,
        changes=changes,
    )


def _check_names(categories: Sequence[Mapping[str, Any]], content: CocoFile) -> None:
    """Check that no two categories with boxes have one name: their scores would be one.

    Raises:
        BadTruth: two have.
    """
    names = Counter(c["name"] for c in categories if c["id"] in content.labelled_categories)
    name, count = names.most_common(1)[0] if names else ("", 0)
    if count > 1:
        ids = [c["id"] for c in categories if c["name"] == name]
        raise BadTruth(
            f"labels {content.path}: the categories {list_texts(ids)} are all named {name!r}: "
            "give each category its own name, or the boxes of one class one category"
        )


def _fit_boxes(
    content: CocoFile, images: Sequence[tuple[ListedImage, Path]], scored: Collection[int]
) -> list[list[FittedBox]]:
    """Return the boxes of each image in scored categories, fitted to its picture."""
    by_image: defaultdict[Hashable, list[Annotation]] = defaultdict(list)
    for annotation in content.annotations:
        if annotation.category_id in scored:
            by_image[annotation.image_id].append(annotation)
    pictures = [
        AnnotatedPicture(_checked_size(image, path, content.path), by_image[image.id])
        for image, path in images
    ]
    try:
        check_box_units(pictures)
    except ValueError as error:
        raise BadTruth(f"labels {content.path}: {error}") from error
    return [fit_boxes(picture) for picture in pictures]


def _unlisted(content: CocoFile) -> list[FittedBox]:
    """Return the annotations of images that the file does not list."""
    listed = {image.id for image in content.images}
    return [FittedBox(a, None, UNLISTED) for a in content.annotations if a.image_id not in listed]


def _checked_size(image: ListedImage, path: Path, file: Path) -> PictureSize:
    """Return the size of an image's file; if the file is damaged, the size in the label file.

    Raises:
        BadTruth: the label file gives another size, so its boxes are for another picture.
    """
    try:
        size = read_size(path)
    except BadFrames:  # damaged images are counted, and left out while they are few
        return image.size or ANY_SIZE
    if image.size in (None, size):
        return size
    assert image.size is not None
    swapped = image.size == (size[1], size[0])
    reason = (
        "it may have been labelled before it was turned upright"
        if swapped
        else "it may be a resized copy of the labelled image"
    )
    raise BadTruth(
        f"labels {file}: image {image.id} has width x height {image.size[0]} x {image.size[1]}, "
        f"but {path} is {size[0]} x {size[1]}: {reason}; give the images that were labelled"
    )
