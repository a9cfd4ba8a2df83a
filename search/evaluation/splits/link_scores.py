"""What a device sends for each frame, and how right the answers are that come of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from search.data.frames import FrameSet
from search.data.ground_truth import Truth
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import answers_as_expected, group_by_frames, score_answers
from search.evaluation.per_frame import (
    FrameScores,
    FrameScoresByModel,
    main_score,
    mean_of_available,
)
from search.evaluation.tasks.registry import SCORING
from search.evaluation.tasks.scoring import AnswerArray, Expected, FrameSizes, UnmergedAnswers
from search.split.setup import SplitSetup
from search.utils.arrays import FloatVector
from spaces.merged import ModelsByName
from spaces.plan import SharePlan

HIGH_PERCENTILE = 95
"""Of the bytes of a frame: a link must carry more than the mean."""


@dataclass(frozen=True, eq=False)
class LinkSetup:
    """The networks whose answers are scored."""

    networks: SplitSetup
    batch: int
    """Frames per forward pass."""

    @property
    def models(self) -> ModelsByName:
        return self.networks.models


@dataclass(frozen=True, eq=False)
class ShownFrames:
    """Frames, and the models that are scored on them."""

    frames: FrameSet
    models: tuple[str, ...]
    truth: Mapping[str, Truth]
    """Of those of the models that have ground truth."""

    @classmethod
    def unlabelled(cls, frames: FrameSet, models: Iterable[str]) -> ShownFrames:
        """Return frames on which answers are only compared with the unsplit ones."""
        return cls(frames, tuple(models), {})

    @classmethod
    def labelled(cls, truth: Mapping[str, Truth], models: Iterable[str]) -> list[ShownFrames]:
        """Return the frames of the ground truth, each set once.

        Models without ground truth are compared with their unsplit answers on the first set.

        Raises:
            ValueError: there is no ground truth.
        """
        if not truth:
            raise ValueError("frames without ground truth are given by themselves")
        first, *others = group_by_frames(truth)
        rest = [name for name in models if name not in truth]
        groups = [(first, [*first, *rest]), *((names, names) for names in others)]
        return [
            cls(truth[names[0]].frames, tuple(scored), {name: truth[name] for name in names})
            for names, scored in groups
        ]


@dataclass(frozen=True, eq=False)
class SentFrames:
    """What one method sends for frames, and what is answered."""

    bytes: FloatVector
    """(frames,) of each whole message."""
    answers: Mapping[str, AnswerArray]
    """By model."""


class AnswerCollector:
    """Collects, batch by batch, what one method sends and what is answered."""

    def __init__(self, models: ModelsByName) -> None:
        self._models = models
        self._bytes: list[int] = []
        self._answers: defaultdict[str, list[AnswerArray]] = defaultdict(list)

    def add(self, messages: Sequence[bytes], answers: Mapping[str, Tensor]) -> None:
        """Add the messages of a batch and the answers to it, by model."""
        self._bytes += [len(message) for message in messages]
        for name, answer in answers.items():
            scoring = SCORING[self._models[name].task]
            self._answers[name].append(scoring.compact(answer))

    def collected(self) -> SentFrames:
        """Return all batches."""
        answers = {name: np.concatenate(arrays) for name, arrays in self._answers.items()}
        return SentFrames(np.array(self._bytes, dtype=np.float64), answers)


@dataclass(frozen=True, eq=False)
class LinkScores:
    """The bytes that one method sends, and the scores of the answers, frame by frame."""

    bytes: Mapping[str, FloatVector]
    """(frames,) by the hash of the frames."""
    scores: FrameScoresByModel
    """Against ground truth, of the models that have it."""
    fidelity: FrameScoresByModel
    """Against the unsplit answers of the same plan; without detectors that are never confident."""

    @property
    def all_bytes(self) -> FloatVector:
        """(frames,) of all sets of frames, one after another."""
        return np.concatenate([*self.bytes.values()])

    @property
    def mean_bytes(self) -> float:
        """Bytes per frame."""
        return float(self.all_bytes.mean())

    @property
    def high_bytes(self) -> float:
        """Bytes that 95% of the frames do not exceed."""
        return float(np.percentile(self.all_bytes, HIGH_PERCENTILE))

    def fidelity_by_model(self, models: Iterable[str]) -> dict[str, float | None]:
        """Return each model's main score of fidelity; None where it is undefined."""
        return {
            name: main_score(self.fidelity[name].scores) if name in self.fidelity else None
            for name in models
        }

    @property
    def mean_fidelity(self) -> float:
        """The mean over the models that have one; NaN without any."""
        mean = mean_of_available(self.fidelity_by_model(self.fidelity))
        return float("nan") if mean is None else mean


@dataclass(frozen=True, eq=False)
class AnswerReference:
    """What the answers to some frames are scored against."""

    shown: ShownFrames
    models: ModelsByName
    frame_sizes: FrameSizes
    unsplit: Mapping[str, Expected]
    """The unsplit answers, by model."""

    @classmethod
    def of(
        cls,
        shown: ShownFrames,
        models: ModelsByName,
        unsplit: SentFrames,
        frame_sizes: FrameSizes,
    ) -> AnswerReference:
        """Return the reference that unsplit answers make."""
        answers = {name: unsplit.answers[name] for name in shown.models}
        expected = answers_as_expected(answers, frame_sizes, models, shown.frames)
        return cls(shown, models, frame_sizes, expected)

    def score(self, sent: SentFrames) -> LinkScores:
        """Return the scores of what a method sends."""
        return LinkScores(
            {self.shown.frames.hash: sent.bytes},
            self._scores(sent, self.shown.truth),
            self._scores(sent, self.unsplit),
        )

    def _scores(
        self, sent: SentFrames, expected: Mapping[str, Expected]
    ) -> dict[str, FrameScores]:
        return {
            name: score_answers(sent.answers[name], right, self.models[name], self.frame_sizes)
            for name, right in expected.items()
        }


@dataclass(frozen=True, eq=False)
class ScoredLinks:
    """Methods measured on the same frames."""

    methods: tuple[LinkScores, ...]
    """In the order in which they were given."""
    unsplit: Mapping[SharePlan, FrameScoresByModel]
    """The scores of the merged model of each plan, which sends nothing."""


def join_scores(parts: Sequence[LinkScores]) -> LinkScores:
    """Return the scores of one method on several sets of frames."""
    return LinkScores(
        {key: sizes for part in parts for key, sizes in part.bytes.items()},
        {name: scores for part in parts for name, scores in part.scores.items()},
        {name: scores for part in parts for name, scores in part.fidelity.items()},
    )


def link_resampling(shown: Sequence[ShownFrames]) -> Resampling:
    """Return the draws of the frames that scores of methods are compared on."""
    return Resampling(
        {name: UnmergedAnswers(part.frames, np.zeros(0)) for part in shown for name in part.models}
    )
