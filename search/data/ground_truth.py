"""Ground truth: class labels, boxes or masks for frames that the statistics have not used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from search.data.entry_fields import list_texts
from search.data.frames import (
    FrameSet,
    RenderedScenes,
    Subset,
    cached_scene,
    summarise_frames,
)
from search.data.synthetic.scenes import CLASSES, SceneSettings
from spaces.errors import MergeSearchError
from spaces.tasks.task import TaskName

COCO_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""The ids from 1 to 90 that no category of COCO has."""
COCO_CLASS_COUNTS = (90, 91)
"""Numbers of classes of detectors that use COCO's ids."""


class BadTruth(MergeSearchError):
    """Labels are missing, or do not fit the images or the model."""


@dataclass(frozen=True)
class ClassTruth:
    """For each frame the indices of its correct classes, at least one; any of them is a hit."""

    frames: FrameSet
    labels: tuple[frozenset[int], ...]
    names: tuple[str, ...] = ()
    """Names of the classes, class 0 first, if the labels have names."""
    notes: tuple[str, ...] = ()
    """What the labels do not cover, in words."""

    def __post_init__(self) -> None:
        if not all(self.labels):
            raise ValueError("a frame without a correct class cannot be scored: leave it out")

    @classmethod
    def single(cls, frames: FrameSet, labels: Iterable[int]) -> ClassTruth:
        """Build ground truth with one correct class per frame."""
        return cls(frames, tuple(frozenset((label,)) for label in labels))

    def coverage_note(self, num_classes: int) -> str | None:
        """Return what the labels do not cover of a classifier, in words; None if nothing."""
        notes = list(self.notes)
        if self.names and len(self.names) < num_classes:
            notes.append(
                f"the labels name {len(self.names)} of its {num_classes} classes "
                f"({list_texts(self.names)}), taken as classes 0 to {len(self.names) - 1}"
            )
        return "; ".join(notes) or None


@dataclass(frozen=True)
class BoxTruth:
    """COCO ground truth: `annotations[k]` are the boxes x, y, w, h of frame k, in its pixels."""

    frames: FrameSet
    annotations: tuple[tuple[dict[str, Any], ...], ...]
    categories: tuple[dict[str, Any], ...] = field(repr=False)
    """The scored categories, each with `id` and `name`."""
    classes: tuple[int, ...] | Mapping[int, int] | None = None
    """Category ids as the user gave them: of every class, class 1 first; or by class."""
    unscored: tuple[str, ...] = ()
    """Names of the labelled categories that belong to no class; their boxes are left out."""
    empty: frozenset[int] = frozenset()
    """Ids of the scored categories without any annotation in the whole file."""
    changes: tuple[str, ...] = ()
    """Which annotations are left out or changed, in words."""

    def category_ids(self, num_classes: int) -> list[int | None]:
        """Return the category id of each class of a detector, class 1 first; None without one.

        Without `classes`, a detector with one class per category has them in the order of their
        ids, and one with at least as many classes as the greatest id (COCO's 90) uses the ids
        themselves. A category 0 without boxes, as labelling tools write it, is no class then.

        Raises:
            BadTruth: the number of classes fits neither rule, or does not fit `classes`.
        """
        if isinstance(self.classes, tuple):
            if len(self.classes) != num_classes:
                raise BadTruth(
                    f"the detector has {num_classes} classes, `classes` lists {len(self.classes)}:"
                    " list the category of every class, or map {class: category} for some"
                )
            return list(self.classes)
        if self.classes is not None:
            if max(self.classes) > num_classes:
                raise BadTruth(
                    f"the detector has {num_classes} classes (1 to {num_classes}), `classes` "
                    f"names class {max(self.classes)}"
                )
            return [self.classes.get(index) for index in range(1, num_classes + 1)]
        return self._default_ids(num_classes)

    def _default_ids(self, num_classes: int) -> list[int | None]:
        ids = sorted(category["id"] for category in self.categories)
        if num_classes == len(ids):
            return list(ids)
        if ids[0] == 0 and 0 in self.empty:
            ids = ids[1:]
            if num_classes == len(ids):
                return list(ids)
        if num_classes >= ids[-1]:
            self._check_ids_are_classes(num_classes)
            return list(range(1, num_classes + 1))
        raise BadTruth(
            f"the detector has {num_classes} classes, the labels {len(ids)} categories with ids "
            f"up to {ids[-1]}: num_classes must be {len(ids)} or at least {ids[-1]}, or `classes` "
            "must give the category of each class"
        )

    def _check_ids_are_classes(self, num_classes: int) -> None:
        """Check that every category with boxes has the number of a class as its id."""
        unused = COCO_GAPS if num_classes in COCO_CLASS_COUNTS else frozenset()
        for category in self.categories:
            category_id = category["id"]
            if category_id in self.empty or (category_id >= 1 and category_id not in unused):
                continue
            reason = (
                "the classes of a detector count from 1"
                if category_id < 1
                else f"COCO, whose ids a detector with {num_classes} classes uses, has no such id"
            )
            raise BadTruth(
                f"category {category_id} ({category['name']}) has boxes, but {reason}: `classes` "
                f"must give the category of each of the detector's {num_classes} classes"
            )

    def coverage_note(self, num_classes: int) -> str | None:
        """Return what is left out of the labels, in words; None if nothing."""
        notes = list(self.changes)
        if self.unscored:
            names = ", ".join(str(category["name"]) for category in self.categories)
            total = len(self.categories) + len(self.unscored)
            notes.append(f"only {len(self.categories)} of {total} categories are scored ({names})")
        if self.classes is not None and None in (ids := self.category_ids(num_classes)):
            notes.append(f"{ids.count(None)} of its {num_classes} classes have no category")
        return "; ".join(notes) or None


@dataclass(frozen=True)
class MaskTruth:
    """For each frame a PNG file of the frame's size, whose pixels are class numbers."""

    frames: FrameSet
    masks: tuple[Path, ...]
    ignore: int = 255
    """The value of pixels that have no class."""
    names: tuple[str, ...] = ()
    """Names of the classes, class 0 first, if they have names."""

    def class_names(self, num_classes: int) -> list[str]:
        """Return the name, or else the number, of each class."""
        return [*self.names, *map(str, range(len(self.names), num_classes))]

    def hashes(self) -> list[str]:
        """Return a hash of the content of each mask."""
        return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in self.masks]

    def coverage_note(self, num_classes: int) -> str | None:
        """Return what the masks do not cover, in words: nothing is known of it."""
        return None


Truth = ClassTruth | BoxTruth | MaskTruth


def summarise_truth(truth: Truth) -> dict[str, Any]:
    """Return the record of ground truth in results: `hash` and `count` of its frames, `labels`.

    `labels` is a hash of the labels in terms of the scored categories.
    """
    labels = _labels_by_frame(truth)
    if isinstance(truth, BoxTruth):
        labels = [truth.annotations, truth.categories, truth.classes]
    return {**summarise_frames(truth.frames), "labels": _json_hash(labels)}


def label_hashes(truth: Truth) -> list[str]:
    """Return, per labelled frame, a hash of its content and its labels."""
    contents = [str(key) for key in truth.frames.content_keys()]
    labelled = zip(contents, _labels_by_frame(truth), strict=True)
    return [_json_hash([*frame]) for frame in labelled]


def _labels_by_frame(truth: Truth) -> Sequence[Any]:
    if isinstance(truth, ClassTruth):
        return [sorted(classes) for classes in truth.labels]
    return truth.annotations if isinstance(truth, BoxTruth) else truth.hashes()


def _json_hash(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scenes_truth(settings: SceneSettings, count: int, task: TaskName) -> Truth:
    """Return the renderer's exact labels or boxes for `count` frames."""
    frames = RenderedScenes(settings, count)
    if task == "classification":
        labels = (cached_scene(settings, i).label for i in range(count))
        return ClassTruth.single(frames, labels)
    categories = tuple({"id": i + 1, "name": name} for i, name in enumerate(CLASSES))
    return BoxTruth(frames, tuple(_scene_boxes(settings, i) for i in range(count)), categories)


def truth_subset(truth: Truth, indices: Sequence[int]) -> Truth:
    """Return the ground truth of some of its frames."""
    return truth_on(Subset(truth.frames, tuple(indices)), truth, indices)


def truth_on(frames: FrameSet, truth: Truth, indices: Sequence[int]) -> Truth:
    """Return the labels at these indices as the ground truth of `frames`, which they belong to."""
    if isinstance(truth, ClassTruth):
        return replace(truth, frames=frames, labels=tuple(truth.labels[i] for i in indices))
    if isinstance(truth, MaskTruth):
        return replace(truth, frames=frames, masks=tuple(truth.masks[i] for i in indices))
    return replace(truth, frames=frames, annotations=tuple(truth.annotations[i] for i in indices))


def check_classes(truth: ClassTruth | BoxTruth, num_classes: int, model: str) -> None:
    """Check that the model can predict every label.

    Raises:
        BadTruth: labels and classes do not fit.
    """
    if isinstance(truth, BoxTruth):
        try:
            truth.category_ids(num_classes)
        except BadTruth as error:
            raise BadTruth(f"truth.{model}: {error}") from error
        return
    if len(truth.names) > num_classes:
        raise BadTruth(
            f"truth.{model}: the labels name {len(truth.names)} classes "
            f"({list_texts(truth.names)}), but it has only {num_classes} classes"
        )
    greatest = max(label for classes in truth.labels for label in classes)
    if greatest >= num_classes:
        raise BadTruth(
            f"the labels for {model} go up to {greatest}, but it has only {num_classes} classes "
            f"(0 to {num_classes - 1})"
        )


def coco_annotation(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a box in the form that pycocotools reads."""
    x, y, width, height = (float(value) for value in raw["bbox"])
    return {
        "bbox": [x, y, width, height],
        "category_id": int(raw["category_id"]),
        "area": float(raw.get("area", width * height)),
        "iscrowd": int(raw.get("iscrowd", 0)),
    }


def _scene_boxes(settings: SceneSettings, index: int) -> tuple[dict[str, Any], ...]:
    rendered = cached_scene(settings, index)
    return tuple(
        coco_annotation({"bbox": box.tolist(), "category_id": int(kind) + 1})
        for box, kind in zip(rendered.boxes, rendered.classes, strict=True)
    )
