"""A bundle measured as it is: its answers against its original models', and ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from search.accuracy import Geometry, class_categories, confident
from search.frames import FrameSet
from search.intervals import Resampling
from search.result import mean_known
from search.tally import Tallies, Tally, main_score
from search.truth import BoxTruth, ClassTruth, Truth
from search.verify import (
    BASELINE,
    Answering,
    Answers,
    Bench,
    Collected,
    Progress,
    answering,
    collect,
    same_frames,
    tally,
)
from spaces.bundle import Bundle
from spaces.inputs import Frame
from spaces.together import Output, PlanSet


@dataclass(frozen=True)
class Faithful:
    """How well a bundle agrees with its original models on some frames."""

    by_model: Mapping[str, float | None]
    """None where the original is confident of nothing."""
    interval: tuple[float, float] | None
    """Of the mean over the models, at 95%; None if nothing is known."""

    @property
    def mean(self) -> float | None:
        return mean_known(self.by_model)


def faithful(bundle: Bundle, bench: Bench, frames: FrameSet, progress: Progress) -> Faithful:
    """The bundle's answers against those of the bench's models, as `search.verify.fidelity`."""
    unmerged = PlanSet(bench.models, bench.facts, [BASELINE], {})
    originals = _by_model(collect(answering(unmerged, bench.models), bench, frames, progress))
    merged = collect(served(bundle), bench, frames, progress)
    right: dict[str, Truth] = {}
    for name, answers in originals.items():
        if (known := _as_truth(name, answers, merged, bench, frames)) is not None:
            right[name] = known
    own, found = (
        {name: tally(name, answers[name], merged, bench, right[name]) for name in right}
        for answers in (originals, _by_model(merged))
    )
    by_model = {n: main_score(found[n].scores) if n in right else None for n in bench.models}
    return Faithful(by_model, _interval(found, own, right))


def tallied(bundle: Bundle, bench: Bench, truth: Mapping[str, Truth]) -> dict[str, Tally]:
    """Of each model with ground truth, what the bundle gets right on each frame."""
    found: dict[str, Tally] = {}
    for names in same_frames(truth):
        collected = collect(served(bundle), bench, truth[names[0]].frames, lambda done: None)
        answers = _by_model(collected)
        for name in names:
            found[name] = tally(name, answers[name], collected, bench, truth[name])
    return found


def served(bundle: Bundle) -> Answering:
    """The bundle's answers, told apart by their models' names."""

    @torch.inference_mode()
    def answers(pictures: list[Frame]) -> list[tuple[Output, Tensor]]:
        found = bundle.merged(bundle.prepared(pictures))
        return [((name, ()), answer) for name, answer in found.items()]

    return answers


def _as_truth(
    name: str, answers: Answers, collected: Collected, bench: Bench, frames: FrameSet
) -> Truth | None:
    """What a model says, taken for right; None if it is confident of nothing."""
    model = bench.models[name]
    if model.task == "classification":
        return ClassTruth.single(frames, (int(row[0]) for row in answers))
    sure = confident(answers, Geometry(collected.sizes, model.input), model.num_classes)
    if not sure:
        return None
    boxes = tuple(
        tuple(box for box in sure if box["image_id"] == k + 1) for k in range(len(frames))
    )
    return BoxTruth(frames, boxes, class_categories(model.num_classes))


def _interval(
    merged: Tallies, original: Tallies, right: Mapping[str, Truth]
) -> tuple[float, float] | None:
    kept = {name: main_score(found.scores) for name, found in merged.items()}
    sure = Resampling(right).quality(kept, merged, original)
    return None if sure is None else (sure[0], sure[1])


def _by_model(collected: Collected) -> dict[str, Answers]:
    """Where each model has one answer."""
    return {name: answers for (name, _), answers in collected.answers.items()}
