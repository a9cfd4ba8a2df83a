"""How sure accuracies are: intervals over the frames, alone and against the unmerged models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from search.data.ground_truth import Truth
from search.evaluation.bootstrap import DRAWS, Vector, draws, interval
from search.evaluation.per_frame import FrameScores, Tallies, main_name, main_score, means_known

Intervals = dict[str, dict[str, list[float]]]
"""By model and score: [low, high], or [difference, low, high]."""


class Resampling:
    """Draws of the labelled frames, the same for all that is measured on the same frames.

    So models are compared draw by draw: a draw of hard frames is hard for all of them. The frames
    are the seed, too: the same frames are drawn alike in every run.
    """

    def __init__(self, truth: Mapping[str, Truth]) -> None:
        self._frames = {name: known.frames for name, known in truth.items()}
        self._known: dict[FrameScores, dict[str, Vector]] = {}

    def intervals(self, tallies: Tallies) -> Intervals:
        """[low, high] of each score."""
        return {
            name: {
                score: list(interval(value, self._drawn(name, tally)[score]))
                for score, value in tally.scores.items()
            }
            for name, tally in tallies.items()
        }

    def differences(self, merged: Tallies, unmerged: Tallies) -> Intervals:
        """[merged - unmerged, low, high] of each score."""
        return {
            name: {
                score: self._difference(name, score, tally, unmerged[name])
                for score in tally.scores
            }
            for name, tally in merged.items()
        }

    def quality(
        self, kept: Mapping[str, float], merged: Tallies, unmerged: Tallies
    ) -> list[float] | None:
        """[low, high] of the mean over the models of what each keeps, in `quality_drawn`."""
        drawn = self.quality_drawn(kept, merged, unmerged)
        if drawn is None:
            return None
        return list(interval(float(np.mean(list(kept.values()))), drawn))

    def quality_drawn(
        self, kept: Mapping[str, float], merged: Tallies, unmerged: Tallies
    ) -> Vector | None:
        """In each draw, the mean over the models of what each keeps.

        `kept` is that of all frames. Models without ground truth, or with an unmerged score of
        0, count as they do there: with their fidelity, which is not drawn. None if all are such.
        """
        measured = [name for name, t in unmerged.items() if main_score(t.scores) > 0]
        if not measured:
            return None
        drawn = [
            self._ratio(name, merged[name], unmerged[name])
            if name in measured
            else np.full(DRAWS, value)
            for name, value in kept.items()
        ]
        mean: Vector = np.mean(drawn, axis=0)
        return mean

    def mean_drawn(self, tallies: Tallies) -> Vector | None:
        """In each draw, the mean over the models of their main scores; None without models.

        A model counts in the draws in which its score is defined.
        """
        if not tallies:
            return None
        drawn = [self._drawn(n, t)[main_name(t.scores)] for n, t in tallies.items()]
        return means_known(np.array(drawn))

    def _difference(
        self, name: str, score: str, merged: FrameScores, unmerged: FrameScores
    ) -> list[float]:
        value = merged.scores[score] - unmerged.scores[score]
        drawn = self._drawn(name, merged)[score] - self._drawn(name, unmerged)[score]
        return [value, *interval(value, drawn)]

    def _ratio(self, name: str, merged: FrameScores, unmerged: FrameScores) -> Vector:
        """Of the main scores, in each draw; NaN where the unmerged one is 0."""
        main = main_name(unmerged.scores)
        whole = self._drawn(name, unmerged)[main]
        part = self._drawn(name, merged)[main]
        return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)

    def _drawn(self, name: str, tally: FrameScores) -> dict[str, Vector]:
        """Each score in every draw of the model's frames."""
        if tally not in self._known:
            frames = self._frames[name]
            seed = list(frames.hash.encode())
            parts = [tally.resampled(counts) for counts in draws(len(frames), seed)]
            self._known[tally] = {s: np.concatenate([p[s] for p in parts]) for s in parts[0]}
        return self._known[tally]
