"""The quality that a graph in int8 keeps, beside that of the same merged models in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.data.ground_truth import Truth
from search.evaluation.bundles import (
    BundleAccuracy,
    BundleFidelity,
    BundleQuality,
    Difference,
    Measure,
    score_by_frame,
)
from search.evaluation.confidence import Resampling
from search.evaluation.evaluate import AnswerFunction, EvaluationSetup
from search.evaluation.per_frame import FrameScoresByModel, Scores
from search.statistics.observed import Observed
from search.utils.progress import silent


@dataclass(frozen=True)
class ModelQuality:
    """What one model keeps in int8."""

    model: str
    unmerged: Scores | None
    """Scores on ground truth; None without it, as the next two."""
    merged: Scores | None
    int8: Scores | None
    kept: float | None
    """Quality kept in int8 against the unmerged model; None without ground truth."""
    interval: list[float] | None
    """Its 95% interval, [low, high]."""
    fidelity: float | None
    """Agreement in int8 with the unmerged model on the held-out frames."""


@dataclass(frozen=True)
class Int8Quality:
    """What all models keep in int8."""

    models: tuple[ModelQuality, ...]
    drop: Difference | None
    """Quality in float minus quality in int8, both against the unmerged models."""
    by: Measure
    """What that quality is: `truth` for quality kept; `fidelity` without any ground truth, or if
    an unmerged model is at chance."""
    at_chance: tuple[str, ...]
    """The models whose unmerged score is no better than chance."""


def measure_int8(
    observed: Observed,
    setup: EvaluationSetup,
    truth: Mapping[str, Truth],
    merged: AnswerFunction,
    int8: AnswerFunction,
) -> Int8Quality:
    """Measure fidelity on the held-out frames, and quality kept on ground truth.

    `merged` answers as the merged models in float, `int8` as the graph in int8.
    """
    by_fidelity = BundleFidelity.prepare(setup, observed.held_out)
    fidelities = [by_fidelity.measure_answers(answers) for answers in (merged, int8)]
    if not truth:
        return _from_fidelity(fidelities)
    by_truth = BundleAccuracy.prepare(setup, truth)
    scores = [score_by_frame(answers, setup, truth, silent) for answers in (merged, int8)]
    qualities = [by_truth.compare(*both) for both in zip(scores, fidelities, strict=True)]
    resampling, unmerged = Resampling(truth), by_truth.unmerged
    models = [
        ModelQuality(
            name,
            *(unmerged[name].scores, scores[0][name].scores, scores[1][name].scores),
            qualities[1].by_model[name],
            _interval(name, qualities[1], scores[1], unmerged, resampling),
            fidelity,
        )
        if name in truth
        else _without_truth(name, fidelity)
        for name, fidelity in fidelities[1].by_model.items()
    ]
    at_chance = by_truth.at_chance
    return Int8Quality(
        tuple(models),
        _drop(fidelities if at_chance else qualities),
        "fidelity" if at_chance else "truth",
        at_chance,
    )


def _without_truth(name: str, fidelity: float | None) -> ModelQuality:
    return ModelQuality(name, None, None, None, None, None, fidelity)


def _from_fidelity(fidelities: list[BundleQuality]) -> Int8Quality:
    models = [_without_truth(*entry) for entry in fidelities[1].by_model.items()]
    return Int8Quality(tuple(models), _drop(fidelities), "fidelity", at_chance=())


def _drop(qualities: list[BundleQuality]) -> Difference | None:
    in_float, in_int8 = qualities
    return in_float.minus(in_int8)


def _interval(
    name: str,
    quality: BundleQuality,
    scores: FrameScoresByModel,
    unmerged: FrameScoresByModel,
    resampling: Resampling,
) -> list[float] | None:
    """Return the 95% interval of one model's quality kept, both scored on the same draws."""
    kept = quality.by_model[name]
    if kept is None:
        return None
    return resampling.quality_interval({name: kept}, {name: scores[name]}, {name: unmerged[name]})
