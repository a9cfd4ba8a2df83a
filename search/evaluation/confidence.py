"""Bootstrap intervals of scores, of their difference from the unmerged models, and of quality."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from search.evaluation.bootstrap import (
    BOOTSTRAP_DRAWS,
    bootstrap_draws,
    percentile_interval,
)
from search.evaluation.per_frame import (
    FrameScores,
    FrameScoresByModel,
    main_score,
    main_score_name,
    nan_mean,
)
from search.evaluation.tasks.scoring import Expected
from search.utils.arrays import FloatVector

ScoreIntervals = dict[str, dict[str, list[float]]]
"""By model and score: [low, high], or [difference, low, high]."""


class Resampling:
    """Draws of the labelled frames, the same for everything measured on the same frames.

    Models are therefore compared draw by draw: a draw of hard frames is hard for all of them. The
    hash of the frames is the seed, so the same frames have the same draws in every run.
    """

    def __init__(self, truth: Mapping[str, Expected]) -> None:
        self._frames = {name: model_truth.frames for name, model_truth in truth.items()}
        self._draws: dict[FrameScores, dict[str, FloatVector]] = {}

    def intervals(self, scores: FrameScoresByModel) -> ScoreIntervals:
        """Return [low, high] of each score."""
        return {
            name: {
                score: list(percentile_interval(value, self._drawn(name, model_scores)[score]))
                for score, value in model_scores.scores.items()
            }
            for name, model_scores in scores.items()
        }

    def differences(
        self, merged: FrameScoresByModel, unmerged: FrameScoresByModel
    ) -> ScoreIntervals:
        """Return [merged - unmerged, low, high] of each score."""
        return {
            name: {
                score: self._difference(name, score, model_scores, unmerged[name])
                for score in model_scores.scores
            }
            for name, model_scores in merged.items()
        }

    def quality_interval(
        self,
        quality_by_model: Mapping[str, float],
        merged: FrameScoresByModel,
        unmerged: FrameScoresByModel,
    ) -> list[float] | None:
        """Return [low, high] of the quality kept, the mean of `quality_by_model`.

        Return None where `quality_draws` does.
        """
        drawn = self.quality_draws(quality_by_model, merged, unmerged)
        if drawn is None:
            return None
        return list(percentile_interval(float(np.mean(list(quality_by_model.values()))), drawn))

    def quality_draws(
        self,
        quality_by_model: Mapping[str, float],
        merged: FrameScoresByModel,
        unmerged: FrameScoresByModel,
    ) -> FloatVector | None:
        """Return the quality kept in each draw, (draws,).

        `quality_by_model` is the quality kept by each model over all frames. A model without
        ground truth, or with an unmerged score of 0, counts with that same value (its fidelity)
        in every draw. Return None if all models are such.
        """
        measured = [name for name, s in unmerged.items() if main_score(s.scores) > 0]
        if not measured:
            return None
        drawn = [
            self._ratio(name, merged[name], unmerged[name])
            if name in measured
            else np.full(BOOTSTRAP_DRAWS, value)
            for name, value in quality_by_model.items()
        ]
        mean: FloatVector = np.mean(drawn, axis=0)
        return mean

    def mean_score_draws(self, scores: FrameScoresByModel) -> FloatVector | None:
        """Return the mean main score over the models in each draw, (draws,); None without models.

        A model counts in the draws in which its score is defined.
        """
        if not scores:
            return None
        drawn = [self._drawn(n, s)[main_score_name(s.scores)] for n, s in scores.items()]
        return nan_mean(np.array(drawn))

    def _difference(
        self, name: str, score: str, merged: FrameScores, unmerged: FrameScores
    ) -> list[float]:
        value = merged.scores[score] - unmerged.scores[score]
        drawn = self._drawn(name, merged)[score] - self._drawn(name, unmerged)[score]
        return [value, *percentile_interval(value, drawn)]

    def _ratio(self, name: str, merged: FrameScores, unmerged: FrameScores) -> FloatVector:
        """Return merged / unmerged main score in each draw; NaN where the unmerged one is 0."""
        main = main_score_name(unmerged.scores)
        divisor = self._drawn(name, unmerged)[main]
        dividend = self._drawn(name, merged)[main]
        return np.divide(dividend, divisor, out=np.full_like(divisor, np.nan), where=divisor > 0)

    def _drawn(self, name: str, scores: FrameScores) -> dict[str, FloatVector]:
        """Return each score in every draw of the model's frames, (draws,)."""
        if scores not in self._draws:
            frames = self._frames[name]
            seed = list(frames.hash.encode())
            tables = [scores.resample(counts) for counts in bootstrap_draws(len(frames), seed)]
            self._draws[scores] = {
                score: np.concatenate([table[score] for table in tables]) for score in tables[0]
            }
        return self._draws[scores]
