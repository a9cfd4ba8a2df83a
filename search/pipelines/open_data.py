"""Open what a config names: frames, ground truth and the device."""

from __future__ import annotations

from pathlib import Path

import torch

from search.config.base import BadConfig, path_from
from search.config.data import PartConfig, SampledConfig
from search.config.run import RunConfig
from search.data.class_labels import csv_truth, folder_truth, real_truth
from search.data.coco import coco_truth
from search.data.frames import (
    BadFrames,
    FrameSet,
    JoinedFrames,
    RenderedScenes,
    Sampling,
    count_duplicates,
    folder_frames,
    split_frames,
)
from search.data.ground_truth import Truth, scenes_truth
from spaces.stages import Task


def open_frame_set(config: RunConfig) -> FrameSet:
    """Open the unlabelled frames.

    Raises:
        BadFrames: a folder holds no images, or a frame is in more than one part.
    """
    frames = _open_frames(config)
    if config.frames.parts is not None and (repeated := count_duplicates(frames)):
        raise BadFrames(f"frames.parts: {repeated} frames are in more than one part, or twice")
    return frames


def check_frame_supply(config: RunConfig) -> None:
    """Check that there are enough frames for the statistics; reads no frame.

    Raises:
        BadFrames: there are too few frames, or a folder holds no images.
    """
    seen, held_out = split_frames(_open_frames(config), config.verify.fidelity_frames)
    config.pass_settings.check_frame_count(len(seen), len(held_out))


def open_ground_truth(config: RunConfig, model: str, task: Task) -> Truth:
    """Open the ground truth of a model that does `task`.

    Raises:
        BadConfig: the ground truth is for the other task.
        BadTruth: it cannot be read.
    """
    section = config.truth[model]
    if section.scenes is not None:
        return scenes_truth(section.scenes.settings(), section.scene_count, task)
    truth_task: Task = "detection" if section.coco else "classification"
    if truth_task != task:
        raise BadConfig(
            f"truth.{model}: {model} does {task}, but this is ground truth for {truth_task}"
        )
    sampling = sampling_of(section)
    if section.csv:
        return csv_truth(path_from(config.base, section.csv), sampling)
    if section.image_folder:
        return folder_truth(path_from(config.base, section.image_folder), sampling)
    file = path_from(config.base, str(section.coco or section.real))
    images = path_from(config.base, section.images) if section.images else file.parent
    if section.coco:
        return coco_truth(file, images, sampling, section.classes)
    return real_truth(file, images, sampling)


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


def _open_frames(config: RunConfig) -> FrameSet:
    if config.frames.parts is None:
        return _open_part(config.frames, config.base)
    return JoinedFrames(tuple(_open_part(part, config.base) for part in config.frames.parts))


def _open_part(part: PartConfig, base: Path) -> FrameSet:
    if part.scenes is not None:
        return RenderedScenes(part.scenes.settings(), part.scene_count)
    assert part.folder is not None
    return folder_frames(path_from(base, part.folder), sampling_of(part))
