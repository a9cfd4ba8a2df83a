"""The config sections `frames` and `truth`: unlabelled frames and ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from search.config.base import BadConfig, Positive, Section, exactly_one
from search.config.scenes import ScenesConfig
from search.data.class_labels import csv_truth, folder_truth, real_truth
from search.data.coco import Category, coco_truth
from search.data.frames import (
    BadFrames,
    FrameSet,
    JoinedFrames,
    RenderedScenes,
    Sampling,
    count_duplicates,
    folder_frames,
)
from search.data.ground_truth import Truth, scenes_truth
from spaces.stages import Task


class _Sampled(Section):
    count: Positive | None = None
    stride: Positive = 1
    offset: Annotated[int, Field(ge=0)] = 0

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.count, self.stride, self.offset)

    def scene_count(self) -> int:
        if self.count is None or self.stride != 1 or self.offset:
            raise ValueError("scenes need a count, and no stride or offset (use another seed)")
        return self.count


class PartConfig(_Sampled):
    """One set of unlabelled frames: a folder of images, or rendered scenes."""

    SOURCES: ClassVar[tuple[str, ...]] = ("folder", "scenes")
    folder: str | None = None
    scenes: ScenesConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PartConfig:
        exactly_one(self, self.SOURCES)
        if self.scenes is not None:
            self.scene_count()
        return self

    def open(self, base: Path) -> FrameSet:
        if self.scenes is not None:
            return RenderedScenes(self.scenes.settings(), self.scene_count())
        assert self.folder is not None
        return folder_frames(base / self.folder, self.sampling)


class FramesConfig(PartConfig):
    """The unlabelled frames: one set, or several that came one after another."""

    SOURCES: ClassVar[tuple[str, ...]] = (*PartConfig.SOURCES, "parts")
    parts: Annotated[list[PartConfig], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _sampled_by_part(self) -> FramesConfig:
        if self.parts is not None and self.sampling != Sampling():
            raise ValueError("count, stride and offset go with each of the parts")
        return self

    def open(self, base: Path) -> FrameSet:
        """
        Raises:
            BadFrames: a folder holds no images, or frames are in more than one part.
        """
        if self.parts is None:
            return super().open(base)
        joined = JoinedFrames(tuple(part.open(base) for part in self.parts))
        if again := count_duplicates(joined):
            raise BadFrames(f"frames.parts: {again} frames are in more than one part, or twice")
        return joined


class TruthConfig(_Sampled):
    """Ground truth for one model: rendered scenes, a CSV file, class folders, ReaL, or COCO."""

    scenes: ScenesConfig | None = None
    csv: str | None = None
    image_folder: str | None = None
    real: str | None = None
    coco: str | None = None
    images: str | None = None
    """With `real` or `coco`: the folder of the images; by default the folder of the file."""
    classes: list[Category] | dict[int, Category] | None = None
    """With `coco`: the category of every class of the detector, class 1 first; or by class."""

    @field_validator("classes", mode="before")
    @classmethod
    def _categories(cls, value: Any) -> Any:
        if isinstance(value, dict):  # JSON knows no numbers as keys
            value = {int(k) if str(k).isdecimal() else k: name for k, name in value.items()}
        listed = value if isinstance(value, list) else None
        named = value if isinstance(value, dict) else dict(enumerate(listed or (), 1))
        if not named or not all(
            type(index) is int and index >= 1 and type(name) in (str, int)
            for index, name in named.items()
        ):
            raise ValueError(
                "give the category of every class in a list, class 1 first, or map {class: "
                "category}; a category is a name or an id"
            )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> TruthConfig:
        exactly_one(self, ("scenes", "csv", "image_folder", "real", "coco"))
        if self.images is not None and self.coco is None and self.real is None:
            raise ValueError("images goes with coco or real only")
        if self.classes is not None and self.coco is None:
            raise ValueError("classes goes with coco only")
        if self.scenes is not None:
            self.scene_count()
        return self

    def open(self, base: Path, task: Task, model: str) -> Truth:
        if self.scenes is not None:
            return scenes_truth(self.scenes.settings(), self.scene_count(), task)
        kind: Task = "detection" if self.coco else "classification"
        if kind != task:
            raise BadConfig(f"truth.{model}: {model} does {task}, but this is truth for {kind}")
        if self.csv:
            return csv_truth(base / self.csv, self.sampling)
        if self.image_folder:
            return folder_truth(base / self.image_folder, self.sampling)
        file = base / str(self.coco or self.real)
        images = base / self.images if self.images else file.parent
        if self.coco:
            return coco_truth(file, images, self.sampling, self.classes)
        return real_truth(file, images, self.sampling)
