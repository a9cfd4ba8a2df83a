"""Labels and frames given on the command line, to verify the plans of a finished run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.config.loading import config_of
from search.config.run import RunConfig
from search.config.yaml_text import NotYaml, read_yaml
from search.data.damaged_images import intact_frames
from search.data.frames import FrameSet, JoinedFrames, Sampling, count_overlap, folder_frames
from search.data.ground_truth import BadTruth, Truth
from search.evaluation.tasks.registry import SCORING
from search.pipelines.finished_run import LoadedRun
from search.utils.format import one_of
from spaces.errors import MergeSearchError
from spaces.tasks.task import TaskName

RUN_KEYS: Mapping[str, Sequence[str]] = {
    "csv": ("classes", "outside"),
    "image_folder": ("classes",),
    "coco": ("classes", "outside"),
    "real": (),
    "masks": ("classes", "images", "ignore"),
}
"""Keys that labels of each format take from the run's config by default."""


LABEL_FILES: Mapping[str, Sequence[str]] = {".csv": ("csv",), ".json": ("coco", "real")}
LABEL_FOLDERS = ("image_folder", "masks")
LABEL_KINDS: Mapping[str, str] = {
    "csv": "a .csv file",
    "image_folder": "a folder with a sub-folder of images per class",
    "coco": "a .json file in COCO's format",
    "real": "a .json file of ReaL labels",
    "masks": "a folder of PNG masks",
}


class BadData(MergeSearchError):
    """The given labels have an unknown format, or belong to no model of the run."""


@dataclass(frozen=True)
class VerificationInputs:
    """The data to verify on. Missing parts are taken from the config of the run."""

    labels: Mapping[str, Path] = field(default_factory=dict)
    """By model: a CSV file, a folder of class folders, or a .json file in COCO or ReaL format."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """By model: the folder with the images of its .json file; by default that of the file."""
    classes: Mapping[str, Any] = field(default_factory=dict)
    """By model: the names or categories of its classes, as `classes` in a config; by default the
    run's."""
    frames: Path | None = None
    """A folder of unlabelled frames, for fidelity."""
    outside: bool = False
    """Whether labelled images may lie outside the folder of their labels."""

    @classmethod
    def parse(
        cls,
        labels: Sequence[str],
        images: Sequence[str],
        classes: Sequence[str],
        frames: Path | None,
        outside: bool = False,
    ) -> VerificationInputs:
        """Parse options of the form MODEL=VALUE.

        Raises:
            BadData: an option is not of that form, or a model is named twice.
        """
        return cls(
            {name: Path(value) for name, value in _by_model("labels", labels).items()},
            {name: Path(value) for name, value in _by_model("images", images).items()},
            {name: _yaml(name, value) for name, value in _by_model("classes", classes).items()},
            frames,
            outside,
        )

    def config_for(self, finished: LoadedRun) -> RunConfig:
        """Return the config of the run with these labels as its ground truth.

        Raises:
            BadData: a model is not in the run, or the format of its labels is unknown.
            BadConfig: the options of a model contradict each other.
        """
        for option, values in (("images", self.images), ("classes", self.classes)):
            for name in values:
                if name not in self.labels:
                    raise BadData(f"--{option} {name}=...: goes with --labels {name}=...")
        if not self.labels and self.frames is None:
            return finished.config
        truth = {name: self._section(name, finished) for name in self.labels}
        data = {**finished.config.as_written(), "truth": truth}
        return config_of(data, finished.config.base, finished.document)

    def fidelity_frames(
        self, search_frames: FrameSet, truth: Mapping[str, Truth], unreadable: float
    ) -> FrameSet | None:
        """Return the given frames, else the labelled frames; None if neither is given.

        `unreadable` is the share of the given frames that may be damaged.

        Raises:
            BadFrames: the folder holds no images, or too many damaged ones.
            BadTruth: some of the given frames are also frames of the search.
        """
        if self.frames is not None:
            images = folder_frames(self.frames.resolve(), Sampling())
            frames = intact_frames(images, unreadable, f"frames folder {self.frames}")
            if both := count_overlap(frames, search_frames):
                raise BadTruth(
                    f"frames folder {self.frames}: {both} of its images are also among the frames "
                    "of the search: fidelity must be measured on others"
                )
            return frames
        if self.labels:
            return JoinedFrames(tuple({t.frames.hash: t.frames for t in truth.values()}.values()))
        return None

    def _section(self, name: str, finished: LoadedRun) -> dict[str, Any]:
        """Return the model's section of `truth` in a config."""
        path, models = self.labels[name], finished.result.models
        if name not in models:
            raise BadData(
                f"--labels {name}={path}: the run has no such model; it has {', '.join(models)}"
            )
        label_format = self._format(name, models[name].task)
        of_run = finished.config.truth.get(name)
        keys = RUN_KEYS[label_format] if of_run is not None else ()
        section = {key: getattr(of_run, key) for key in keys if getattr(of_run, key) is not None}
        if name in self.images:
            section["images"] = str(self.images[name].resolve())
        if name in self.classes:
            section["classes"] = self.classes[name]
        if self.outside and "outside" in RUN_KEYS[label_format]:
            section["outside"] = True
        return {label_format: str(path.resolve()), **section}

    def _format(self, name: str, task: TaskName) -> str:
        """Return the key of the config for the model's labels."""
        path, accepted = self.labels[name], SCORING[task].label_formats
        found = LABEL_FOLDERS if path.is_dir() else LABEL_FILES.get(path.suffix.lower(), ())
        matching = [label_format for label_format in found if label_format in accepted]
        if not matching:
            kinds = [
                LABEL_KINDS[label_format]
                for label_format in accepted
                if label_format in LABEL_KINDS
            ]
            expected = f"must be {one_of(kinds)}" if kinds else "there is no ground truth"
            raise BadData(f"--labels {name}={path}: {expected}, since {name} does {task}")
        return matching[0]


def _by_model(option: str, texts: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise BadData(f"--{option} {text}: write it as MODEL=...")
        if name in values:
            raise BadData(f"--{option} {text}: {name} already has {values[name]}")
        values[name] = value
    return values


def _yaml(name: str, text: str) -> Any:
    try:
        value = read_yaml(text)
    except NotYaml as error:
        raise BadData(
            f"--classes {name}={text}: write it as [person, car] or {{1: person, 3: car}} "
            f"({error})"
        ) from error
    return str(Path(value).resolve()) if isinstance(value, str) else value
