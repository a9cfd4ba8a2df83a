"""What methods keep of the unmerged models, each run whole, on the same frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search.data.ground_truth import Truth
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import quality_kept, quality_kept_by_model
from search.evaluation.per_frame import FrameScoresByModel, scores_by_model
from search.evaluation.splits.link_scores import LinkScores


@dataclass(frozen=True)
class Scorer:
    """Turns frame scores into the fields of `SplitMeasurement` that say what is kept."""

    truth: Mapping[str, Truth]
    unsplit: FrameScoresByModel
    """Of the unmerged models, by model with ground truth."""
    models: tuple[str, ...]

    @cached_property
    def resampling(self) -> Resampling:
        """The draws of the labelled frames."""
        return Resampling(self.truth)

    def sent(self, scores: LinkScores) -> dict[str, Any]:
        """Return the fields of a method that sends messages, with their bytes."""
        kept = self.kept(scores.scores, scores.fidelity_by_model(self.models))
        return {"bytes": scores.mean_bytes, "bytes_p95": scores.high_bytes, **kept}

    def kept(
        self, scores: FrameScoresByModel, fidelity: Mapping[str, float | None]
    ) -> dict[str, Any]:
        """Return the fields that say what is kept."""
        accuracy, baseline = scores_by_model(scores), scores_by_model(self.unsplit)
        quality = quality_kept_by_model(accuracy, baseline, fidelity)
        draws = self.resampling
        return {
            "accuracy": accuracy,
            "intervals": draws.intervals(scores),
            "differences": draws.differences(scores, self.unsplit),
            "fidelity": dict(fidelity),
            "kept": quality,
            "quality_kept": quality_kept(accuracy, baseline, fidelity),
            "quality_interval": draws.quality_interval(quality, scores, self.unsplit),
        }
