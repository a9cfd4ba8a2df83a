"""Open the frames, the ground truth and the device that a config names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from search.config.base import BadConfig, path_from
from search.config.data import PartConfig, SampledConfig, TruthConfig
from search.config.run import RunConfig
from search.data.class_categories import Category
from search.data.class_labels import folder_truth, real_truth
from search.data.class_names import check_class_names, names_in_truth, read_class_names
from search.data.coco.truth import coco_truth
from search.data.damaged_images import intact_frames, intact_truth
from search.data.frames import (
    BadFrames,
    FrameSet,
    ImageFiles,
    JoinedFrames,
    RenderedScenes,
    Sampling,
    count_duplicates,
    folder_frames,
    split_frames,
)
from search.data.ground_truth import ClassTruth, Truth, scenes_truth
from search.data.label_table import csv_truth
from search.data.labelled_images import ImageRoot
from search.data.masks import ImageMasks, folder_masks
from search.data.remote.addresses import is_address
from search.data.remote.folders import remote_frames
from search.data.synthetic.scenes import SCENE_CLASSES
from search.evaluation.tasks.registry import SCORING
from search.utils.format import one_of
from spaces.errors import MergeSearchError
from spaces.stages import StagedModel
from spaces.tasks.task import ClassNames, TaskName


def open_frame_set(config: RunConfig) -> FrameSet:
    """Open the unlabelled frames.

    Raises:
        BadFrames: a folder holds no images or too many damaged ones, or a frame is in more than
            one part.
    """
    if config.frames.parts is None:
        return _open_part(config.frames, config)
    joined_frames = JoinedFrames(tuple(_open_part(part, config) for part in config.frames.parts))
    if repeated := count_duplicates(joined_frames):
        raise BadFrames(f"frames.parts: {repeated} frames are in more than one part, or twice")
    return joined_frames


def check_frame_supply(config: RunConfig) -> None:
    """Check that there are enough frames for the statistics; reads no frame.

    Raises:
        BadFrames: there are too few frames, or a folder holds no images.
    """
    parts = config.frames.parts or [config.frames]
    listed = tuple(_listed_part(part, config.base) for part in parts)
    frames = listed[0] if config.frames.parts is None else JoinedFrames(listed)
    statistics_frames, held_out = split_frames(frames, config.verify.fidelity_frames)
    config.pass_settings.check_frame_count(len(statistics_frames), len(held_out))


def open_ground_truth(config: RunConfig, model: str, task: TaskName) -> Truth:
    """Open the ground truth of a model that does `task`.

    Raises:
        BadConfig: the ground truth is for another task.
        BadTruth: it cannot be read, or too many of its images cannot.
    """
    section = config.truth[model]
    _check_task(section, model, task)
    if section.scenes is not None:
        return scenes_truth(section.scenes.settings(), section.scene_count, task)
    truth = _open_labels(section, config.base)
    return intact_truth(truth, config.frames.largest_unreadable_share, f"truth.{model}")


def class_names_in_labels(
    config: RunConfig, models: Mapping[str, StagedModel]
) -> dict[str, ClassNames]:
    """Return the names that the labels of the config give to the classes of each model.

    No image is read. A model whose labels cannot be read any more has no names.
    """
    names: dict[str, ClassNames] = {}
    for name, section in config.truth.items():
        model = models[name]
        with contextlib.suppress(MergeSearchError):
            if section.scenes is None:
                truth = _open_labels(section, config.base)
            else:
                truth = scenes_truth(section.scenes.settings(), 1, model.task)
            if section.scenes and isinstance(truth, ClassTruth):
                truth = replace(truth, names=SCENE_CLASSES)
            names[name] = names_in_truth(truth, model.num_classes)
    return names


def _check_task(section: TruthConfig, model: str, task: TaskName) -> None:
    formats = SCORING[task].label_formats
    if section.label_format in formats:
        return
    fitting = f"give {one_of(formats)}" if formats else "there is none"
    raise BadConfig(
        f"truth.{model}: {model} does {task}, but `{section.label_format}` is no ground truth for "
        f"it: {fitting}"
    )


def _open_labels(section: TruthConfig, base: Path) -> Truth:
    sampling, outside = sampling_of(section), bool(section.outside)
    classes = section.classes
    if isinstance(classes, str):
        classes = list(read_class_names(path_from(base, classes)))
    if section.csv:
        file = path_from(base, section.csv)
        return csv_truth(file, sampling, _names(classes), ImageRoot(file.parent, outside))
    if section.image_folder:
        return folder_truth(path_from(base, section.image_folder), sampling, _names(classes))
    if section.masks:
        folder, pictures = path_from(base, section.masks), path_from(base, str(section.images))
        ignore = 255 if section.ignore is None else section.ignore
        return folder_masks(ImageMasks(folder, pictures, ignore), sampling, _names(classes))
    file = path_from(base, str(section.coco or section.real))
    images = path_from(base, section.images) if section.images else file.parent
    if section.coco:
        return coco_truth(file, ImageRoot(images, outside), sampling, classes)
    return real_truth(file, images, sampling)


def _names(classes: Iterable[Category] | None) -> tuple[str, ...]:
    return check_class_names(classes or (), "classes")


def sampling_of(section: SampledConfig) -> Sampling:
    """Return which frames of its source a section takes."""
    return Sampling(section.count, section.stride, section.offset)


def select_device(name: str) -> torch.device:
    """Return the torch device that the config key `device` means on this machine.

    Raises:
        BadConfig: the machine does not have that CUDA device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        available = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
        raise BadConfig(
            f"device: {name!r}: torch finds {available} on this machine; use auto, or cpu"
        )
    return device


def _open_part(part: PartConfig, config: RunConfig) -> FrameSet:
    frames = _listed_part(part, config.base)
    if not isinstance(frames, ImageFiles):
        return frames
    text = str(part.folder)
    folder = text if is_address(text) else path_from(config.base, text)
    return intact_frames(frames, config.frames.largest_unreadable_share, f"frames folder {folder}")


def _listed_part(part: PartConfig, base: Path) -> RenderedScenes | ImageFiles:
    """Return the frames of a part without reading one."""
    if part.scenes is not None:
        return RenderedScenes(part.scenes.settings(), part.scene_count)
    assert part.folder is not None
    if is_address(part.folder):
        return remote_frames(part.folder, sampling_of(part))
    return folder_frames(path_from(base, part.folder), sampling_of(part))
