"""Labels and frames that a person gives by hand, to verify a finished run's plans on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from search.config.loading import config_of
from search.config.run import RunConfig
from search.data.frames import FrameSet, JoinedFrames, Sampling, count_overlap, folder_frames
from search.data.ground_truth import BadTruth, Truth
from search.pipelines.finished_run import Finished
from spaces.errors import MergeSearchError


class BadData(MergeSearchError):
    """Labels to verify on that are of no known form, or of no model of the run."""


@dataclass(frozen=True)
class FreshData:
    """What to verify on; if nothing is given, on what the run itself has kept for it."""

    labels: Mapping[str, Path] = field(default_factory=dict)
    """Per model a CSV file, a folder of class folders, or a .json file: COCO's, or ReaL's."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Per model the folder of the images of its .json file; by default that of the file."""
    classes: Mapping[str, Any] = field(default_factory=dict)
    """Per model the categories of its classes, as `classes` in a config; by default the run's."""
    frames: Path | None = None
    """A folder of unlabelled frames, for fidelity."""

    @classmethod
    def parse(
        cls,
        labels: Sequence[str],
        images: Sequence[str],
        classes: Sequence[str],
        frames: Path | None,
    ) -> FreshData:
        """From texts of the form MODEL=VALUE.

        Raises:
            BadData: a text is not of that form, or a model is named twice.
        """
        return cls(
            {name: Path(value) for name, value in _by_model("labels", labels).items()},
            {name: Path(value) for name, value in _by_model("images", images).items()},
            {name: _yaml(name, value) for name, value in _by_model("classes", classes).items()},
            frames,
        )

    def asked_of(self, finished: Finished) -> RunConfig:
        """The run's config with these labels for its ground truth.

        Raises:
            BadData: a model is none of the run's, or its labels are of no known form.
            BadConfig: the labels of a model and what is said of them do not go together.
        """
        for option, given in (("images", self.images), ("classes", self.classes)):
            for name in given:
                if name not in self.labels:
                    raise BadData(f"--{option} {name}=...: goes with --labels {name}=...")
        if not self.labels and self.frames is None:
            return finished.config
        truth = {name: self._section(name, finished) for name in self.labels}
        asked = {**finished.config.as_written(), "truth": truth}
        return config_of(asked, finished.config.base, finished.document)

    def unlabelled(self, seen: FrameSet, truth: Mapping[str, Truth]) -> FrameSet | None:
        """The frames for fidelity: those given, else the labelled ones; None if nothing is given.

        Raises:
            BadTruth: some of those given are among those that the search has seen.
        """
        if self.frames is not None:
            frames = folder_frames(self.frames.resolve(), Sampling())
            if both := count_overlap(frames, seen):
                raise BadTruth(
                    f"frames folder {self.frames}: {both} of its images are also among the frames "
                    "of the search: fidelity must be measured on others"
                )
            return frames
        if self.labels:
            return JoinedFrames(tuple({t.frames.hash: t.frames for t in truth.values()}.values()))
        return None

    def _section(self, name: str, finished: Finished) -> dict[str, Any]:
        """What the model's `truth` would be in a config."""
        path, known = self.labels[name], finished.result.models
        if name not in known:
            raise BadData(
                f"--labels {name}={path}: the run has no such model, but {', '.join(known)}"
            )
        section: dict[str, Any] = {}
        if name in self.images:
            section["images"] = str(self.images[name].resolve())
        if name in self.classes:
            section["classes"] = self.classes[name]
        if path.is_dir():
            return {"image_folder": str(path.resolve()), **section}
        forms = {".csv": "csv", ".json": "real"}
        if known[name].task == "detection":
            forms[".json"] = "coco"
            before = finished.config.truth.get(name)
            if before and before.classes:
                section = {"classes": before.classes, **section}
        if path.suffix.lower() not in forms:
            raise BadData(
                f"--labels {name}={path}: must be a .csv file, a folder with a sub-folder of "
                "images per class, or a .json file"
            )
        return {forms[path.suffix.lower()]: str(path.resolve()), **section}


def _by_model(option: str, texts: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise BadData(f"--{option} {text}: write it as MODEL=...")
        if name in values:
            raise BadData(f"--{option} {text}: {name} was given {values[name]} already")
        values[name] = value
    return values


def _yaml(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadData(
            f"--classes {name}={text}: write it as [person, car] or {{1: person, 3: car}}"
        ) from error
