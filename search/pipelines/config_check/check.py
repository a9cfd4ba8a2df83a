"""`merge-search check`: verify a config and its files without running the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from search.cameras.deduplication import describe_repetition
from search.config.run import RunConfig
from search.data.frames import FrameSet, remarks_of, split_frames, split_parts
from search.data.ground_truth import BoxTruth, Truth
from search.pipelines.config_check.checklist import Checklist
from search.pipelines.config_check.places import (
    check_disk_space,
    check_study_store,
    check_tracking_store,
)
from search.pipelines.config_check.search_space import SpaceFacts, measure_space
from search.pipelines.deployment.cluster import describe_cluster
from search.pipelines.deployment.load import load_named_model, survey
from search.pipelines.deployment.memory import check_memory
from search.pipelines.open_data import open_frame_set, select_device
from search.pipelines.prepare import open_truth_of
from search.utils.reporter import Reporter
from spaces.deployment import Deployment
from spaces.stages import StagedModel

FEW_SCENES = 16
"""Rendered labelled frames that are checked."""


@dataclass(frozen=True)
class CheckReport:
    """The outcome of `merge-search check`."""

    config: str
    """The name of the run."""
    passed: bool
    checklist: Checklist

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        items = [asdict(item) for item in self.checklist.items]
        return {"config": self.config, "passed": self.passed, "checks": items}


def check_config(config: RunConfig, reporter: Reporter) -> CheckReport:
    """Check everything that a run of the config needs, and print the list."""
    reporter.step(f"Checking {config.name}")
    checklist = Checklist()
    checklist.check("device", lambda: select_device(config.device), str)
    if config.execution == "dask":
        with reporter.working("cluster"):
            checklist.check("execution", lambda: describe_cluster(config), str)
    models = _check_models(config, checklist, reporter)
    with reporter.working("frames"):
        frames = checklist.check("frames", lambda: _read_frames(config), _describe_frames)
    with reporter.working("labels"):
        _check_truth(config, checklist, models, frames)
    with reporter.working("search space"):
        space = _check_space(config, checklist, models, frames)
    with reporter.working("places"):
        unmerged = None if space is None else space.unmerged_bytes
        checklist.check("disk", lambda: check_disk_space(config, unmerged), str)
        checklist.check("storage", lambda: check_study_store(config), str)
        checklist.check("mlflow", lambda: check_tracking_store(config), str)
    _print(checklist, reporter)
    return CheckReport(config.name, checklist.passed, checklist)


def _check_models(
    config: RunConfig, checklist: Checklist, reporter: Reporter
) -> dict[str, StagedModel]:
    models: dict[str, StagedModel] = {}
    with reporter.progress("models", len(config.models)) as progress:
        for name in config.models:
            load = partial(load_named_model, config, name)
            model = checklist.check(f"models.{name}", load, _describe_model)
            if model is not None:
                models[name] = model
            progress(1)
    return models


def _describe_model(model: StagedModel) -> str:
    layout, source = model.layout, model.source
    size = f"{model.input.height} x {model.input.width}"
    facts = [
        "" if source is None else source.spec.arch,
        f"{len(layout.stages)} stages",
        f"{model.task} of {model.num_classes} classes" if model.num_classes else model.task,
        f"input {size} ({model.input.fit_in_words})",
        "" if source is None else source.note,
    ]
    return ", ".join(filter(None, facts))


def _read_frames(config: RunConfig) -> FrameSet:
    """Read the frames, and check that they are enough for the statistics."""
    frames = open_frame_set(config)
    for_statistics, held_out = split_frames(frames, config.verify.fidelity_frames)
    config.pass_settings.check_frame_count(len(for_statistics), len(held_out))
    return frames


def _describe_frames(frames: FrameSet) -> str:
    remarks = remarks_of(frames)
    notes = (
        f"{len(frames)} frames",
        *remarks.notes,
        *remarks.warnings,
        describe_repetition(frames),
    )
    return "; ".join(filter(None, notes))


def _check_truth(
    config: RunConfig,
    checklist: Checklist,
    models: Mapping[str, StagedModel],
    frames: FrameSet | None,
) -> None:
    for name in config.truth:
        if frames is None or name not in models:
            checklist.skip(f"truth.{name}", "the model and the frames")
            continue
        load = partial(open_truth_of, _with_few_scenes(config, name), name, models[name], frames)
        checklist.check(f"truth.{name}", load, partial(_describe_truth, models[name].num_classes))


def _with_few_scenes(config: RunConfig, name: str) -> RunConfig:
    """Return the config with only a few of a model's rendered frames: their labels are exact."""
    section = config.truth[name]
    if section.scenes is None:
        return config
    few = section.model_copy(update={"count": min(FEW_SCENES, section.scene_count)})
    return config.model_copy(update={"truth": {**config.truth, name: few}})


def _describe_truth(num_classes: int, truth: Truth) -> str:
    labelled = f"{len(truth.frames)} labelled frames"
    if isinstance(truth, BoxTruth):
        boxes = sum(len(annotations) for annotations in truth.annotations)
        labelled += f", {boxes} boxes of {len(truth.categories)} categories"
    remarks = remarks_of(truth.frames)
    coverage = truth.coverage_note(num_classes)
    notes = (labelled, coverage, *remarks.notes, *remarks.warnings)
    return "; ".join(note for note in notes if note)


def _check_space(
    config: RunConfig,
    checklist: Checklist,
    models: Mapping[str, StagedModel],
    frames: FrameSet | None,
) -> SpaceFacts | None:
    if len(models) < len(config.models):
        for subject in ("search space", "budget", "memory"):
            checklist.skip(subject, "all models")
        return None
    deployment: Deployment | None = checklist.check(
        "sharing",
        lambda: survey(config, models),
        lambda d: (
            f"{len(d.pairs.legal)} pairs of stages may share, {len(d.pairs.rejected)} may not"
        ),
    )
    if deployment is None:
        checklist.skip("search space", "stages that may share")
        return None
    space = checklist.check(
        "search space", lambda: measure_space(config, deployment), SpaceFacts.describe
    )
    if space is not None:
        checklist.check("budget", lambda: space.check_budget(config), str)
    if frames is None:
        checklist.skip("memory", "the frames")
    else:
        counts = [len(p) for p, _ in split_parts(frames, config.verify.fidelity_frames)]
        check = partial(check_memory, deployment, config.pass_settings, counts)
        checklist.check("memory", check, str)
    return space


def _print(checklist: Checklist, reporter: Reporter) -> None:
    for item in checklist.items:
        reporter.say(f"  {item.status:8} {item.subject}: {item.text}")
    failures = sum(item.status != "ok" for item in checklist.items)
    if failures:
        reporter.say(f"{failures} of {len(checklist.items)} checks did not pass.")
    else:
        reporter.say("Everything that a run needs is there.")
