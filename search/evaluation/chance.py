"""Unmerged scores that are no better than chance: against them, no plan can be measured."""

from __future__ import annotations

from collections.abc import Mapping

from search.data.ground_truth import Truth
from search.evaluation.per_frame import Scores, main_score, main_score_name
from search.evaluation.tasks.registry import scoring_of_score

LIKELY_REASONS = (
    "likely reasons are images that lie on their side, another resolution than in training "
    "(models.{name}.size, fit), another order of classes (truth.{name}.classes), or another input "
    "normalisation (models.{name}.input: mean, std, channels)"
)


def scores_at_chance(baseline: Mapping[str, Scores], truth: Mapping[str, Truth]) -> dict[str, str]:
    """Return a warning for each model whose unmerged score is no better than chance."""
    warnings = {}
    for name, scores in baseline.items():
        scoring = scoring_of_score(main_score_name(scores))
        problem = scoring.problem(main_score(scores), truth[name])
        if problem is not None:
            warnings[name] = (
                f"truth.{name}: the unmerged model has {problem}, so what a plan keeps of it "
                f"means nothing; {LIKELY_REASONS.format(name=name)}"
            )
    return warnings
