"""Unmerged scores that are no better than chance: against them, no plan can be measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from search.data.ground_truth import ClassTruth, Truth
from search.evaluation.per_frame import Scores, main_score

LOWEST_MAP = 0.02
"""An mAP below this is chance: a trained detector is above it on frames of its kind."""
ONE_SIDED_95 = 1.645
"""The standard normal quantile of 95%."""
LIKELY_REASONS = (
    "likely reasons are images that lie on their side, another resolution than in training "
    "(models.{name}.size, fit), another order of classes (truth.{name}.classes), or another input "
    "normalisation (models.{name}.input: mean, std, channels)"
)


def scores_at_chance(baseline: Mapping[str, Scores], truth: Mapping[str, Truth]) -> dict[str, str]:
    """Return a warning for each model whose unmerged score is no better than chance."""
    warnings = {}
    for name, scores in baseline.items():
        problem = _problem(main_score(scores), truth[name])
        if problem is not None:
            warnings[name] = (
                f"truth.{name}: the unmerged model has {problem}, so what a plan keeps of it "
                f"means nothing; {LIKELY_REASONS.format(name=name)}"
            )
    return warnings


def chance_of(truth: ClassTruth) -> float | None:
    """Return the top-1 accuracy of the best constant answer, but at least that of guessing.

    Guessing is among the classes that are present. It is None if one class is right on all frames.
    """
    counts = Counter(label for classes in truth.labels for label in classes)
    most_frequent = counts.most_common(1)[0][1] / len(truth.labels)
    return None if most_frequent == 1 else max(1 / len(counts), most_frequent)


def _problem(score: float, truth: Truth) -> str | None:
    """Return what is wrong with an unmerged score; None if it is above chance."""
    if not isinstance(truth, ClassTruth):
        return f"an mAP of only {score:.3f}" if score < LOWEST_MAP else None
    chance = chance_of(truth)
    if chance is None:
        return None if score > 0 else "a top-1 of 0%"
    if score > _highest_by_chance(chance, len(truth.labels)):
        return None
    return f"a top-1 of {score:.1%}, not significantly above the {chance:.1%} of chance"


def _highest_by_chance(chance: float, frames: int) -> float:
    """Return the accuracy that a constant answer exceeds in one of twenty draws of the frames."""
    return chance + ONE_SIDED_95 * math.sqrt(chance * (1 - chance) / frames)
