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


@dataclass(frozen=True)
class Originals:
    """What the models of a bench answer on some frames; taken for right, against bundles."""

    bench: Bench
    frames: FrameSet
    right: Mapping[str, Truth]
    """Of the models that are confident of anything."""
    own: Tallies
    """Of the models themselves."""

    @classmethod
    def on(cls, bench: Bench, frames: FrameSet, progress: Progress) -> Originals:
        unmerged = PlanSet(bench.models, bench.facts, [BASELINE], {})
        collected = collect(answering(unmerged, bench.models), bench, frames, progress)
        right: dict[str, Truth] = {}
        for name, answers in _by_model(collected).items():
            if (known := _as_truth(name, answers, collected, bench, frames)) is not None:
                right[name] = known
        return cls(bench, frames, right, _tallies(collected, bench, right))

    def against(self, bundle: Bundle, progress: Progress) -> Faithful:
        """How well a bundle's answers agree with them, as `search.verify.fidelity` has it."""
        merged = collect(served(bundle), self.bench, self.frames, progress)
        found = _tallies(merged, self.bench, self.right)
        by_model = {
            name: main_score(found[name].scores) if name in found else None
            for name in self.bench.models
        }
        return Faithful(by_model, _interval(found, self.own, self.right))


def tallied(bundle: Bundle, bench: Bench, truth: Mapping[str, Truth]) -> dict[str, Tally]:
    """Of each model with ground truth, what the bundle gets right on each frame."""
    found: dict[str, Tally] = {}
    for names in same_frames(truth):
        collected = collect(served(bundle), bench, truth[names[0]].frames, lambda done: None)
        found |= _tallies(collected, bench, {name: truth[name] for name in names})
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


def _tallies(collected: Collected, bench: Bench, right: Mapping[str, Truth]) -> dict[str, Tally]:
    """Where each model has one answer."""
    answers = _by_model(collected)
    return {name: tally(name, answers[name], collected, bench, right[name]) for name in right}


def _interval(
    merged: Tallies, original: Tallies, right: Mapping[str, Truth]
) -> tuple[float, float] | None:
    kept = {name: main_score(found.scores) for name, found in merged.items()}
    sure = Resampling(right).quality(kept, merged, original)
    return None if sure is None else (sure[0], sure[1])


def _by_model(collected: Collected) -> dict[str, Answers]:
    """Where each model has one answer."""
    return {name: answers for (name, _), answers in collected.answers.items()}
