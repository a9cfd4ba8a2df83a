"""The fourth step of a split: the most promising points, measured with real messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from search.data.frames import FrameSet
from search.evaluation.chance import scores_at_chance
from search.evaluation.evaluate import UNMERGED_PLAN
from search.evaluation.per_frame import scores_by_model
from search.evaluation.splits.codec_coder import CodecCoder
from search.evaluation.splits.link_scores import LinkSetup, ShownFrames
from search.evaluation.splits.score_splits import SplitCandidate, score_splits
from search.pipelines.split.codec_times import time_codec
from search.pipelines.split.inputs import SplitInputs
from search.pipelines.split.lookup import SplitLookup, SplitPoint
from search.pipelines.split.measure import Scorer
from search.pipelines.split.recalibration import recalibrate_splits
from search.results.rank_agreement import rank_correlation
from search.results.search_result import RankAgreement
from search.results.split_result import SplitPointRecord, UnsplitRecord
from search.utils.reporter import Reporter
from spaces.split.recalibrated import BatchNormStatistics, StatisticsByCoding
from spaces.split.split import Split


@dataclass(frozen=True)
class VerifiedPoints:
    """The measured points, and what they are compared with."""

    points: list[SplitPointRecord]
    """In the order in which they were chosen to be verified."""
    unsplit: UnsplitRecord
    scorer: Scorer


def shown_frames(inputs: SplitInputs) -> list[ShownFrames]:
    """Return the frames that everything is measured on: labelled ones, or those held out."""
    models = inputs.deployment.models
    if inputs.truth:
        return ShownFrames.labelled(inputs.truth, models)
    return [ShownFrames.unlabelled(inputs.held_out, models)]


def link_setup_of(inputs: SplitInputs) -> LinkSetup:
    return LinkSetup(inputs.setup, inputs.config.verify.batch)


def verify_points(
    inputs: SplitInputs, lookup: SplitLookup, points: Sequence[SplitPoint], reporter: Reporter
) -> VerifiedPoints:
    """Measure points on ground truth; fidelity where a model has none."""
    shown = shown_frames(inputs)
    frames: list[FrameSet] = [part.frames for part in shown]
    plans = len({point.split.plan for point in points}) + 1
    recalibrated = recalibrate_splits(
        inputs,
        [(point.exact_split, point.coding) for point in points],
        {point.exact_split: point.coded.codec for point in points},
        reporter,
    )
    candidates = [
        SplitCandidate(
            point.split,
            CodecCoder(point.coded.codec, point.coding),
            _statistics_of(point, recalibrated),
        )
        for point in points
    ]
    against = "Ground truth" if inputs.truth else "Fidelity"
    reporter.step(f"{against} of {len(points)} splits with real messages")
    with reporter.progress("frames", plans * sum(map(len, frames))) as progress:
        scored = score_splits(
            link_setup_of(inputs), candidates, shown, progress, against=UNMERGED_PLAN
        )
    unsplit = scored.unsplit[UNMERGED_PLAN]
    scorer = Scorer(inputs.truth, unsplit, (*inputs.deployment.models,))
    at_chance = scores_at_chance(scores_by_model(unsplit), inputs.truth)
    for warning in at_chance.values():
        reporter.warn(warning)
    record = UnsplitRecord(
        accuracy=scores_by_model(unsplit),
        intervals=scorer.resampling.intervals(unsplit),
        bytes=inputs.costs.unmerged_bytes,
        macs=inputs.costs.unmerged_macs,
        at_chance=at_chance,
    )
    measured = [
        replace(
            _point_record(point, lookup, scorer.sent(scores)),
            recalibrated=candidate.statistics is not None,
        )
        for point, candidate, scores in zip(points, candidates, scored.methods, strict=True)
    ]
    return VerifiedPoints(measured, record, scorer)


def _statistics_of(
    point: SplitPoint, recalibrated: Mapping[Split, StatisticsByCoding]
) -> BatchNormStatistics | None:
    by_coding = recalibrated.get(point.exact_split)
    return by_coding.at(point.coding) if by_coding else None


def _point_record(
    point: SplitPoint, lookup: SplitLookup, measured: Mapping[str, Any]
) -> SplitPointRecord:
    """Return the record of a measured point; it is feasible by its real bytes."""
    prediction = asdict(lookup.prediction(point))
    _, codec_time = time_codec(point.coded, point.coding)
    times = lookup.times(point, measured["bytes"], codec_time)
    violations = lookup.conditions.violations(
        times.total_ms, point.device_memory, point.coded.option.device_macs
    )
    feasible = all(violation <= 0 for violation in violations.values())
    fields: dict[str, Any] = {**prediction, **measured, "times": times, "feasible": feasible}
    return SplitPointRecord(**fields)


def choose_point(points: Sequence[SplitPointRecord], keep: float) -> SplitPointRecord | None:
    """Return the feasible point of the fewest bytes that keeps the quality `keep`.

    If none does, it is the one that keeps most; of equals, to a tenth of a per cent, the one of
    the fewest bytes.
    """
    feasible = [point for point in points if point.feasible and point.quality is not None]
    return min(
        feasible,
        key=lambda p: (-min(round(p.quality or 0.0, 3), keep), p.bytes),
        default=None,
    )


def split_rank_agreement(points: Sequence[SplitPointRecord]) -> RankAgreement:
    """Return how well predictions order the verified points."""
    proxy = [-point.distortion for point in points]
    return {
        "proxy_truth": rank_correlation(proxy, [point.quality_kept for point in points]),
        "proxy_fidelity": rank_correlation(proxy, [point.mean_fidelity for point in points]),
        "bytes": rank_correlation(
            [point.predicted_bytes for point in points], [point.bytes for point in points]
        ),
    }
