"""The config sections `frames` and `truth`: unlabelled frames and ground truth."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from search.config.base import Positive, Section, Share01, exactly_one, no_boolean
from search.config.scenes import ScenesConfig
from search.data.class_categories import Category
from search.data.remote.addresses import check_address, is_address
from search.utils.format import one_of

UNREADABLE_SHARE = 0.01
"""Share of damaged images that is accepted without a setting."""


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
    """Folder of images, read in the order of their names; or the address of one, such as
    `s3://BUCKET/FOLDER`, `gs://BUCKET/FOLDER` or `https://HOST/FOLDER`."""
    scenes: ScenesConfig | None = None
    """Rendered street scenes."""

    @field_validator("folder")
    @classmethod
    def _check_folder(cls, value: str | None) -> str | None:
        if value is not None and is_address(value):
            check_address(value)
        return value

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
    unreadable: Share01 | None = None
    """Share of the images of a source, labelled ones included, that may be damaged, by default
    0.01: they are left out with a warning. With 0, a single one stops the run before it begins."""

    @property
    def largest_unreadable_share(self) -> float:
        return UNREADABLE_SHARE if self.unreadable is None else self.unreadable

    @model_validator(mode="after")
    def _check_sampling(self) -> FramesConfig:
        if self.parts is not None and not self.takes_all:
            raise ValueError("count, stride and offset go with each of the parts")
        return self


LABEL_FORMATS = ("scenes", "csv", "image_folder", "real", "coco", "masks")
GOES_WITH = {
    "images": ("coco", "real", "masks"),
    "classes": ("coco", "csv", "image_folder", "masks"),
    "outside": ("coco", "csv"),
    "ignore": ("masks",),
}
"""Formats of labels that each further key goes with."""


class TruthConfig(SampledConfig):
    """Ground truth of one model: give exactly one of `scenes`, `csv`, `image_folder`, `real`,
    `coco`, `masks`."""

    scenes: ScenesConfig | None = None
    """Rendered street scenes with the renderer's own labels."""
    csv: str | None = None
    """CSV file with the columns path and label_index, or label_indices such as `3;17`. Paths are
    relative to the file. Other usual names of the columns are accepted, and `;` or a tab as
    delimiter."""
    image_folder: str | None = None
    """Folder with one sub-folder of images per class, in alphabetical order or that of `classes`;
    for an embedding with one per identity."""
    real: str | None = None
    """JSON file of ReaL labels of ImageNet's validation images."""
    coco: str | None = None
    """JSON file of COCO boxes, for a detector."""
    masks: str | None = None
    """Folder of PNG masks for a segmentation: the mask of image DIR/NAME.jpg in `images` is
    DIR/NAME.png, and its pixels are class numbers."""
    ignore: Annotated[int, Field(ge=0), BeforeValidator(no_boolean)] | None = None
    """With `masks`: value of the pixels that have no class; by default 255."""
    images: str | None = None
    """With `real`, `coco` or `masks`: folder of the images; by default the folder of the file."""
    classes: list[Category] | dict[int, Category] | str | None = None
    """With `coco`: category of every class of the detector, class 1 first, or a mapping of classes
    to categories. A category is a name or an id. With `csv`, `image_folder` or `masks`: name of
    every class of the network, in its order. Also a text file with one name per line."""
    outside: bool | None = None
    """With `csv` or `coco`: whether the labels may name images outside the folder of the CSV file,
    or outside `images`; by default they may not."""

    @property
    def label_format(self) -> str:
        """The key that names the labels."""
        return next(key for key in LABEL_FORMATS if getattr(self, key) is not None)

    @field_validator("classes", mode="before")
    @classmethod
    def _check_categories(cls, value: Any) -> Any:
        if isinstance(value, dict):  # JSON has no integer keys
            value = {int(k) if str(k).isdecimal() else k: name for k, name in value.items()}
        if isinstance(value, str) and value:
            return value
        listed = value if isinstance(value, list) else None
        by_class = value if isinstance(value, dict) else dict(enumerate(listed or (), 1))
        if not by_class or not all(
            type(index) is int and index >= 1 and type(name) in (str, int)
            for index, name in by_class.items()
        ):
            raise ValueError(
                "give the category of every class in a list, class 1 first, or map {class: "
                "category}; a category is a name or an id; or give a text file of names"
            )
        return value

    @model_validator(mode="after")
    def _check_source(self) -> TruthConfig:
        exactly_one(self, LABEL_FORMATS)
        for key, formats in GOES_WITH.items():
            if getattr(self, key) is not None and self.label_format not in formats:
                raise ValueError(f"{key} goes with {one_of(formats)} only")
        if isinstance(self.classes, dict) and self.coco is None:
            raise ValueError(f"classes of {self.label_format} is a list or a text file")
        if self.masks is not None and self.images is None:
            raise ValueError("masks needs images, the folder of the images")
        if self.scenes is not None:
            _ = self.scene_count
        return self
