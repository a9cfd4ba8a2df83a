"""Ground truth: class labels or boxes for frames that the statistics have not used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from search.data.frames import (
    FrameSet,
    ImageFiles,
    Remarks,
    RenderedScenes,
    Sampling,
    Subset,
    cached_scene,
    summarise_frames,
)
from search.data.synthetic.scenes import CLASSES, SceneSettings
from spaces.errors import MergeSearchError
from spaces.stages import Task


class BadTruth(MergeSearchError):
    """Labels are missing, or do not fit the images or the model."""


@dataclass(frozen=True)
class ClassTruth:
    """For each frame the indices of its correct classes, at least one; any of them is a hit."""

    frames: FrameSet
    labels: tuple[frozenset[int], ...]

    def __post_init__(self) -> None:
        if not all(self.labels):
            raise ValueError("a frame without a correct class cannot be scored: leave it out")

    @classmethod
    def single(cls, frames: FrameSet, labels: Iterable[int]) -> ClassTruth:
        """Build ground truth with one correct class per frame."""
        return cls(frames, tuple(frozenset((label,)) for label in labels))


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

    def category_ids(self, num_classes: int) -> list[int | None]:
        """Return the category id of each class of a detector, class 1 first; None without one.

        Without `classes`, a detector with one class per category has them in the order of their
        ids, and one with at least as many classes as the greatest id (COCO's 90) uses the ids
        themselves.

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
        if num_classes >= ids[-1]:
            return list(range(1, num_classes + 1))
        raise BadTruth(
            f"the detector has {num_classes} classes, the labels {len(ids)} categories with ids "
            f"up to {ids[-1]}: num_classes must be {len(ids)} or at least {ids[-1]}, or `classes` "
            "must give the category of each class"
        )

    def coverage_note(self, num_classes: int) -> str | None:
        """Return what the user's `classes` leave out, in words; None if nothing."""
        notes = []
        if self.unscored:
            names = ", ".join(str(category["name"]) for category in self.categories)
            total = len(self.categories) + len(self.unscored)
            notes.append(f"only {len(self.categories)} of {total} categories are scored ({names})")
        if self.classes is not None and None in (ids := self.category_ids(num_classes)):
            notes.append(f"{ids.count(None)} of its {num_classes} classes have no category")
        return "; ".join(notes) or None


Truth = ClassTruth | BoxTruth


def summarise_truth(truth: Truth) -> dict[str, Any]:
    """Return the record of ground truth in results: `hash` and `count` of its frames, `labels`.

    `labels` is a hash of the labels in terms of the scored categories.
    """
    labels: Any = (
        [sorted(classes) for classes in truth.labels]
        if isinstance(truth, ClassTruth)
        else [truth.annotations, truth.categories, truth.classes]
    )
    return {**summarise_frames(truth.frames), "labels": _json_hash(labels)}


def label_hashes(truth: Truth) -> list[str]:
    """Return, per labelled frame, a hash of its content and its labels."""
    labels: Sequence[Any] = (
        [sorted(classes) for classes in truth.labels]
        if isinstance(truth, ClassTruth)
        else truth.annotations
    )
    contents = [str(key) for key in truth.frames.content_keys()]
    return [_json_hash([*labelled]) for labelled in zip(contents, labels, strict=True)]


def _json_hash(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scenes_truth(settings: SceneSettings, count: int, task: Task) -> Truth:
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
        return ClassTruth(frames, tuple(truth.labels[i] for i in indices))
    return replace(truth, frames=frames, annotations=tuple(truth.annotations[i] for i in indices))


def check_classes(truth: Truth, num_classes: int, model: str) -> None:
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


def sample_indices(available: int, sampling: Sampling, source: Path) -> range:
    """Return the indices of the labelled frames to use.

    Raises:
        BadTruth: there are none.
    """
    indices = sampling.indices(available)
    if not indices:
        raise BadTruth(
            f"labels {source}: offset {sampling.offset} skips all of {available} labelled frames"
        )
    return indices


def existing_images(
    paths: tuple[Path, ...], source: Path, notes: Sequence[str] = ()
) -> ImageFiles:
    """Return the labelled images, with notes on what their folder holds besides.

    Raises:
        BadTruth: some do not exist.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise BadTruth(
            f"labels {source}: {len(missing)} of {len(paths)} images do not exist, "
            f"first {missing[0]}"
        )
    return ImageFiles(paths, Remarks(tuple(f"labels {source}: {note}" for note in notes)))


def _scene_boxes(settings: SceneSettings, index: int) -> tuple[dict[str, Any], ...]:
    rendered = cached_scene(settings, index)
    return tuple(
        coco_annotation({"bbox": box.tolist(), "category_id": int(kind) + 1})
        for box, kind in zip(rendered.boxes, rendered.classes, strict=True)
    )
