"""Ground truth: class labels or boxes for frames that the statistics have not seen."""

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
    RenderedScenes,
    Sampling,
    Subset,
    contents,
    described,
    scene,
)
from search.data.synthetic.scenes import CLASSES, SceneSettings
from spaces.errors import MergeSearchError
from spaces.stages import Task


class BadTruth(MergeSearchError):
    """Labels that are missing, or match neither the images nor the model."""


@dataclass(frozen=True)
class ClassTruth:
    """For each frame the indices of its right classes, one or several: any of them is a hit."""

    frames: FrameSet
    labels: tuple[frozenset[int], ...]

    def __post_init__(self) -> None:
        if not all(self.labels):
            raise ValueError("a frame without a right class cannot be scored: leave it out")

    @classmethod
    def single(cls, frames: FrameSet, labels: Iterable[int]) -> ClassTruth:
        """One right class per frame."""
        return cls(frames, tuple(frozenset((label,)) for label in labels))


@dataclass(frozen=True)
class BoxTruth:
    """COCO ground truth: `annotations[k]` are frame k's, boxes as x, y, w, h in its pixels."""

    frames: FrameSet
    annotations: tuple[tuple[dict[str, Any], ...], ...]
    categories: tuple[dict[str, Any], ...] = field(repr=False)
    """Those that are measured."""
    classes: tuple[int, ...] | Mapping[int, int] | None = None
    """Category ids as the user gave them: of every class, class 1 first; or by class."""
    unmeasured: tuple[str, ...] = ()
    """Names of the labelled categories that no class answers to; their boxes are left out."""

    def category_ids(self, num_classes: int) -> list[int | None]:
        """The category id of each class of a detector, class 1 first; None for one without.

        If the user did not say: a detector with one class per category has them in the order of
        their ids; one with as many classes as the greatest id (COCO's 90) uses the ids themselves.

        Raises:
            BadTruth: neither fits, or what the user said does not fit the number of classes.
        """
        if isinstance(self.classes, tuple):
            if len(self.classes) != num_classes:
                raise BadTruth(
                    f"the detector has {num_classes} classes, `classes` lists {len(self.classes)}:"
                    " list the category of every class, or map {class: category} those with one"
                )
            return list(self.classes)
        if self.classes is not None:
            if max(self.classes) > num_classes:
                raise BadTruth(
                    f"the detector has {num_classes} classes (1 to {num_classes}), `classes` "
                    f"names class {max(self.classes)}"
                )
            return [self.classes.get(index) for index in range(1, num_classes + 1)]
        ids = sorted(category["id"] for category in self.categories)
        if num_classes == len(ids):
            return list(ids)
        if num_classes >= ids[-1]:
            return list(range(1, num_classes + 1))
        raise BadTruth(
            f"the detector has {num_classes} classes, the labels {len(ids)} categories with ids "
            f"up to {ids[-1]}: num_classes must be {len(ids)} or at least {ids[-1]}, or `classes` "
            "must say which category each class is"
        )

    def part_measured(self, num_classes: int) -> str | None:
        """What is left out because the user's `classes` do not name it; None if nothing is."""
        told = []
        if self.unmeasured:
            names = ", ".join(str(category["name"]) for category in self.categories)
            every = len(self.categories) + len(self.unmeasured)
            told.append(f"measured are {len(self.categories)} of {every} categories ({names})")
        if self.classes is not None and None in (ids := self.category_ids(num_classes)):
            told.append(f"{ids.count(None)} of its {num_classes} classes have no category")
        return "; ".join(told) or None


Truth = ClassTruth | BoxTruth


def truth_described(truth: Truth) -> dict[str, Any]:
    """What results say of ground truth: `hash` and `count` of its frames, and `labels`, a hash of
    what is right on them, in terms of the categories that are measured."""
    right: Any = (
        [sorted(labels) for labels in truth.labels]
        if isinstance(truth, ClassTruth)
        else [truth.annotations, truth.categories, truth.classes]
    )
    return {**described(truth.frames), "labels": _digest(right)}


def marks(truth: Truth) -> list[str]:
    """Of each labelled frame, a hash of its content and of what is right on it."""
    labels: Sequence[Any] = (
        [sorted(right) for right in truth.labels]
        if isinstance(truth, ClassTruth)
        else truth.annotations
    )
    return [_digest([*both]) for both in zip(contents(truth.frames), labels, strict=True)]


def _digest(data: Any) -> str:
    written = json.dumps(data, sort_keys=True, default=dict)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def scenes_truth(settings: SceneSettings, count: int, task: Task) -> Truth:
    """The renderer's exact labels or boxes."""
    frames = RenderedScenes(settings, count)
    if task == "classification":
        return ClassTruth.single(frames, (scene(settings, i).label for i in range(count)))
    categories = tuple({"id": i + 1, "name": name} for i, name in enumerate(CLASSES))
    return BoxTruth(frames, tuple(_scene_boxes(settings, i) for i in range(count)), categories)


def part_of(truth: Truth, indices: Sequence[int]) -> Truth:
    """The truth of some of its frames."""
    frames = Subset(truth.frames, tuple(indices))
    if isinstance(truth, ClassTruth):
        return ClassTruth(frames, tuple(truth.labels[i] for i in indices))
    return replace(truth, frames=frames, annotations=tuple(truth.annotations[i] for i in indices))


def check_classes(truth: Truth, num_classes: int, model: str) -> None:
    """Refuse labels that the model cannot answer.

    Raises:
        BadTruth: labels and classes do not fit.
    """
    if isinstance(truth, BoxTruth):
        try:
            truth.category_ids(num_classes)
        except BadTruth as error:
            raise BadTruth(f"truth.{model}: {error}") from error
        return
    worst = max(label for right in truth.labels for label in right)
    if worst >= num_classes:
        raise BadTruth(
            f"the labels for {model} go up to {worst}, but it has only {num_classes} classes "
            f"(0 to {num_classes - 1})"
        )


def annotation(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A box as pycocotools wants it."""
    x, y, width, height = (float(value) for value in raw["bbox"])
    return {
        "bbox": [x, y, width, height],
        "category_id": int(raw["category_id"]),
        "area": float(raw.get("area", width * height)),
        "iscrowd": int(raw.get("iscrowd", 0)),
    }


def taken_of(available: int, sampling: Sampling, source: Path) -> range:
    """Which of the labelled frames at hand are taken.

    Raises:
        BadTruth: none.
    """
    taken = sampling.indices(available)
    if not taken:
        raise BadTruth(f"labels {source}: offset {sampling.offset} leaves none of {available}")
    return taken


def files_of(paths: tuple[Path, ...], source: Path) -> ImageFiles:
    """The labelled images.

    Raises:
        BadTruth: some are not there.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise BadTruth(
            f"labels {source}: {len(missing)} of {len(paths)} images are not there, "
            f"first {missing[0]}"
        )
    return ImageFiles(paths)


def _scene_boxes(settings: SceneSettings, index: int) -> tuple[dict[str, Any], ...]:
    rendered = scene(settings, index)
    return tuple(
        annotation({"bbox": box.tolist(), "category_id": int(kind) + 1})
        for box, kind in zip(rendered.boxes, rendered.classes, strict=True)
    )
