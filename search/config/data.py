"""The config sections `frames` and `truth`: unlabelled frames and ground truth."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from search.config.base import Positive, Section, Share01, exactly_one
from search.config.scenes import ScenesConfig
from search.data.coco import Category


class SampledConfig(Section):
    """A section that takes some of the frames of its source."""

    count: Positive | None = None
    """Number of frames, spread evenly over the source; by default all. Required with `scenes`."""
    stride: Positive = 1
    """Distance between two frames that are taken: 2 takes every second one."""
    offset: Annotated[int, Field(ge=0)] = 0
    """Number of frames to skip at the beginning of the source."""

    @property
    def takes_all(self) -> bool:
        return (self.count, self.stride, self.offset) == (None, 1, 0)

    @property
    def scene_count(self) -> int:
        """The number of scenes to render.

        Raises:
            ValueError: the section has no count, or a stride or an offset.
        """
        if self.count is None or self.stride != 1 or self.offset:
            raise ValueError("scenes need a count, and no stride or offset (use another seed)")
        return self.count


class PartConfig(SampledConfig):
    """One set of unlabelled frames: give exactly one of `folder` and `scenes`."""

    SOURCES: ClassVar[tuple[str, ...]] = ("folder", "scenes")
    folder: str | None = None
    """Folder of images, read in the order of their names."""
    scenes: ScenesConfig | None = None
    """Rendered street scenes."""

    @model_validator(mode="after")
    def _check_source(self) -> PartConfig:
        exactly_one(self, self.SOURCES)
        if self.scenes is not None:
            _ = self.scene_count
        return self


class FramesConfig(PartConfig):
    """The unlabelled frames: give exactly one of `folder`, `scenes` and `parts`."""

    SOURCES: ClassVar[tuple[str, ...]] = (*PartConfig.SOURCES, "parts")
    parts: Annotated[list[PartConfig], Field(min_length=1)] | None = None
    """Several sets of frames, such as those of a first search and windows that came later."""
    unreadable: Share01 = 0.01
    """Share of the images of a source, labelled ones included, that may be damaged: they are left
    out with a warning. With 0, a single one stops the run before it begins."""

    @model_validator(mode="after")
    def _check_sampling(self) -> FramesConfig:
        if self.parts is not None and not self.takes_all:
            raise ValueError("count, stride and offset go with each of the parts")
        return self


class TruthConfig(SampledConfig):
    """Ground truth of one model: give exactly one of `scenes`, `csv`, `image_folder`, `real`,
    `coco`."""

    scenes: ScenesConfig | None = None
    """Rendered street scenes with the renderer's own labels."""
    csv: str | None = None
    """CSV file with the columns path and label_index, or label_indices such as `3;17`. Paths are
    relative to the file."""
    image_folder: str | None = None
    """Folder with one sub-folder of images per class, in alphabetical order."""
    real: str | None = None
    """JSON file of ReaL labels of ImageNet's validation images."""
    coco: str | None = None
    """JSON file of COCO boxes, for a detector."""
    images: str | None = None
    """With `real` or `coco`: folder of the images; by default the folder of the file."""
    classes: list[Category] | dict[int, Category] | None = None
    """With `coco`: category of every class of the detector, class 1 first, or a mapping of classes
    to categories. A category is a name or an id."""

    @field_validator("classes", mode="before")
    @classmethod
    def _check_categories(cls, value: Any) -> Any:
        if isinstance(value, dict):  # JSON has no integer keys
            value = {int(k) if str(k).isdecimal() else k: name for k, name in value.items()}
        listed = value if isinstance(value, list) else None
        by_class = value if isinstance(value, dict) else dict(enumerate(listed or (), 1))
        if not by_class or not all(
            type(index) is int and index >= 1 and type(name) in (str, int)
            for index, name in by_class.items()
        ):
            raise ValueError(
                "give the category of every class in a list, class 1 first, or map {class: "
                "category}; a category is a name or an id"
            )
        return value

    @model_validator(mode="after")
    def _check_source(self) -> TruthConfig:
        exactly_one(self, ("scenes", "csv", "image_folder", "real", "coco"))
        if self.images is not None and self.coco is None and self.real is None:
            raise ValueError("images goes with coco or real only")
        if self.classes is not None and self.coco is None:
            raise ValueError("classes goes with coco only")
        if self.scenes is not None:
            _ = self.scene_count
        return self
