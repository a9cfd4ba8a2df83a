"""Measure splits with real messages: what is sent for each frame, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from search.evaluation.per_frame import FrameScores
from search.evaluation.splits.crossing import SplitModel
from search.evaluation.splits.link_scores import (
    AnswerCollector,
    AnswerReference,
    LinkScores,
    LinkSetup,
    ScoredLinks,
    SentFrames,
    ShownFrames,
    join_scores,
)
from search.utils.progress import Progress
from spaces.plan import SharePlan
from spaces.split.recalibrated import BatchNormStatistics
from spaces.split.split import Split
from spaces.tasks.task import FrameSize


class CrossingCoder(Protocol):
    """Turns the crossing representations of frames into messages, and back."""

    def encode(self, tensors: Sequence[Tensor], frame_sizes: Sequence[FrameSize]) -> list[bytes]:
        """Return the message of each frame of a batch.

        `tensors` are the crossing representations in order, (batch, c, h, w) or (batch, c);
        `frame_sizes` are (height, width).
        """
        ...

    def decode(self, messages: Sequence[bytes]) -> list[Tensor]:
        """Return the crossing representations of the frames of some messages."""
        ...


@dataclass(frozen=True, eq=False)
class SplitCandidate:
    """A split, and what codes its crossing representations."""

    split: Split
    coder: CrossingCoder
    statistics: BatchNormStatistics | None = None
    """Of the BatchNorms of the server's part; None for those of the networks."""


def score_splits(
    setup: LinkSetup,
    candidates: Sequence[SplitCandidate],
    shown: Sequence[ShownFrames],
    progress: Progress,
    against: SharePlan | None = None,
) -> ScoredLinks:
    """Measure candidates: every frame is coded, decoded, answered and scored.

    The merged model of each plan runs once for all splits; the server's part runs from each
    decoded message on. Fidelity compares with the unsplit answers of the plan `against`, by
    default with those of each plan itself. `progress` counts frames times plans.

    Raises:
        BadSplit: a split does not fit the merged model of its plan.
    """
    scored: dict[int, LinkScores] = {}
    unsplit: dict[SharePlan, Mapping[str, FrameScores]] = {}
    references: list[AnswerReference | None] = [None] * len(shown)
    if against is not None:
        sent = [_Sending(setup, against, []).send(part, progress) for part in shown]
        references = [found.reference for found in sent]
        unsplit[against] = join_scores([found.scores()[0] for found in sent]).scores
    for plan, numbers in _by_plan(candidates).items():
        sending = _Sending(setup, plan, [candidates[number] for number in numbers])
        parts = (
            sending.send(part, progress).scores(reference)
            for part, reference in zip(shown, references, strict=True)
        )
        alone, *methods = zip(*parts, strict=True)
        unsplit[plan] = join_scores(alone).scores
        scored |= zip(numbers, map(join_scores, methods), strict=True)
    return ScoredLinks(tuple(scored[number] for number in range(len(candidates))), unsplit)


def _by_plan(candidates: Sequence[SplitCandidate]) -> dict[SharePlan, list[int]]:
    numbers: dict[SharePlan, list[int]] = {}
    for number, candidate in enumerate(candidates):
        numbers.setdefault(candidate.split.plan, []).append(number)
    return numbers


@dataclass(frozen=True, eq=False)
class _Sent:
    """The answers to some frames without a split, and with each candidate."""

    reference: AnswerReference
    """Made of the unsplit answers."""
    methods: tuple[SentFrames, ...]
    """Without a split, and with each candidate."""

    def scores(self, against: AnswerReference | None = None) -> list[LinkScores]:
        """Return the scores of each, against the own unsplit answers or those of another plan."""
        return [*map((against or self.reference).score, self.methods)]


class _Sending:
    """Candidates of one plan."""

    def __init__(
        self, setup: LinkSetup, plan: SharePlan, candidates: Sequence[SplitCandidate]
    ) -> None:
        self._setup = setup
        self._candidates = candidates
        splits = dict.fromkeys(candidate.split for candidate in candidates)
        self._model = SplitModel.of(setup.networks.merged(plan), splits)
        self._servers = [self._model.recalibrated(c.statistics) for c in candidates]

    def send(self, shown: ShownFrames, progress: Progress) -> _Sent:
        """Return the answers to frames."""
        models = self._setup.models
        alone, *sent = (AnswerCollector(models) for _ in range(1 + len(self._candidates)))
        sizes: list[FrameSize] = []
        networks, size = self._setup.networks, self._setup.batch
        for batch in networks.batches(self._model.merged, shown.frames, size):
            run = self._model.run(batch.inputs)
            alone.add([b""] * len(batch), run.answers)
            for candidate, server, collector in zip(
                self._candidates, self._servers, sent, strict=True
            ):
                tensors = self._model.crossing(candidate.split, run.representations)
                messages = candidate.coder.encode(tensors, batch.frame_sizes)
                decoded = candidate.coder.decode(messages)
                answers = server.answer(candidate.split, decoded)
                collector.add(messages, run.answers | answers)
            sizes += batch.frame_sizes
            progress(len(batch))
        unsplit = alone.collected()
        reference = AnswerReference.of(shown, models, unsplit, sizes)
        return _Sent(reference, (unsplit, *(collector.collected() for collector in sent)))
