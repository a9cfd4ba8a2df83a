"""Answers of a plan on every frame, each by linear maps that were fitted without the frame.

The frames that maps are fitted on are divided into folds. A fold's rows are left out of the
statistics, the plan's few maps are solved again, and the plan runs on the fold with these. So all
frames say how good the plan is on frames it has not seen, and none has to be kept for that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from search.data.frames import FrameSet, Subset
from search.evaluation.evaluate import (
    AnswerFunction,
    CollectedAnswers,
    EvaluationSetup,
    PlanSetAnswers,
    collect_answers,
)
from search.evaluation.tasks.scoring import AnswerArray
from search.statistics.left_out import folds_of, moments_of_pairs, moments_without
from search.statistics.similarity import Statistics
from search.statistics.streaming import Moments, PassSettings
from search.utils.progress import Progress
from spaces.adapters import LinearMap
from spaces.deployment import Deployment
from spaces.node import Output
from spaces.plan import Share, SharePlan
from spaces.plan_set import PlanSet
from spaces.precision import round_map
from spaces.shares import Pair

FRAME_FOLDS = 3
"""Folds of the frames of each part: as many times are the maps solved again."""


class Piece(NamedTuple):
    """Some frames of a set, and what answers on them."""

    indices: Sequence[int]
    answer: AnswerFunction


@dataclass(frozen=True)
class FittedPart:
    """Frames that maps were fitted on, with their moments."""

    moments: Moments
    frames: int
    """Number of frames."""
    indices: Sequence[int | None] | None = None
    """The index, in the set of frames to measure, of each frame; None of one that is not in it.
    None for all if no frame is to be measured."""


@dataclass(frozen=True)
class CrossFitting:
    """Fits the maps of one plan, which are in closed form, without some of the frames."""

    deployment: Deployment
    plan: SharePlan
    parts: Sequence[FittedPart]
    settings: PassSettings
    """Of the pass that measured the parts."""

    @cached_property
    def fitted_indices(self) -> frozenset[int]:
        """The frames to measure that maps were fitted on, by their indices."""
        indices = (index for part in self.parts for index in part.indices or ())
        return frozenset(index for index in indices if index is not None)

    def pieces(self) -> Iterator[Piece]:
        """Yield the frames of each fold with the plan's answers by maps that never saw them."""
        folds = [
            folds_of(part.frames, FRAME_FOLDS) if part.indices is not None else []
            for part in self.parts
        ]
        for k in range(FRAME_FOLDS):
            left_out = [own[k] if k < len(own) else range(0) for own in folds]
            indices = [
                index
                for part, fold in zip(self.parts, left_out, strict=True)
                for place in fold
                if part.indices is not None and (index := part.indices[place]) is not None
            ]
            if indices:
                yield Piece(indices, self.answers_without(left_out))

    def answers_without(self, left_out: Sequence[Collection[int]]) -> PlanSetAnswers:
        """Return the plan's answers by maps fitted without some frames of each part."""
        models = self.deployment.deployed_models
        maps = self.maps_without(left_out)
        plan_set = PlanSet(models, self.deployment.facts, [self.plan], maps)
        return PlanSetAnswers(plan_set, models)

    def maps_without(self, left_out: Sequence[Collection[int]]) -> dict[Share, LinearMap]:
        """Return the plan's maps, fitted without some frames of each part."""
        shares = self.plan.mapped_shares
        pairs = mapped_pairs(self.plan)
        total: Moments | None = None
        for part, dropped in zip(self.parts, left_out, strict=True):
            own = moments_of_pairs(part.moments, pairs)
            own = moments_without(own, dropped, self.settings, part.frames) if dropped else own
            if total is None:
                total = own
            else:
                total.merge(own)
        assert total is not None
        maps = Statistics(total, self.deployment.facts).linear_maps(sorted(shares))
        return {s: round_map(fitted, self.deployment.dtype) for s, fitted in maps.items()}


def mapped_pairs(plan: SharePlan) -> set[Pair]:
    """Return the pairs that a linear map of a plan joins."""
    return {Pair(share.donor, share.recipient) for share in plan.mapped_shares}


def collect_pieces(
    pieces: Iterable[Piece],
    setup: EvaluationSetup,
    frames: FrameSet,
    progress: Progress,
) -> CollectedAnswers:
    """Run each piece on its frames, and return the answers of each model in the frames' order.

    Together the pieces hold every frame once.
    """
    order: list[int] = []
    sizes: list[tuple[int, int]] = []
    parts: dict[str, list[AnswerArray]] = {}
    for indices, answer in pieces:
        own = collect_answers(answer, setup, Subset(frames, tuple(indices)), progress)
        for output, answers in own.answers.items():
            parts.setdefault(output.model, []).append(answers)
        order += indices
        sizes += own.frame_sizes
    if sorted(order) != list(range(len(frames))):
        raise ValueError("the pieces do not hold every frame once")
    by_frame = np.argsort(order)
    answers_by_output: Mapping[Output, AnswerArray] = {
        Output(name, ()): np.concatenate(arrays)[by_frame] for name, arrays in parts.items()
    }
    return CollectedAnswers(answers_by_output, [sizes[k] for k in by_frame])
