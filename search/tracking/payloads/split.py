"""The numbers and texts that MLflow shows of splits, and of the other ways to answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.evaluation.per_frame import main_score_name
from search.results.kept_quality import kept_text
from search.results.search_result import significance
from search.results.split_result import (
    SplitBaselineRecord,
    SplitMeasurement,
    SplitPointRecord,
    SplitResult,
)
from search.tracking.payloads.common import provenance_parameters
from search.tracking.payloads.search_run import LONGEST_PARAMETER, SCORES
from search.utils.format import megabytes
from spaces.plan import SharePlan

NOTED_POINTS = 20
"""Points in the note at most: MLflow accepts 8,000 characters."""
LONGEST_NOTED_LABEL = 120
TIMES = ("device_ms", "encode_ms", "link_ms", "decode_ms", "server_ms", "total_ms")


def split_parameters(result: SplitResult) -> dict[str, Any]:
    """Return the link, the limits and the sizes of the study, and the chosen point."""
    chosen, study = result.chosen_point, result.study
    return {
        **({} if chosen is None else point_parameters(chosen)),
        **condition_parameters(result),
        "models": ", ".join(f"{name}={model.arch}" for name, model in result.models.items()),
        **{name: study[name] for name in ("sampler", "space", "trials", "splits")},
        "verified": len(result.points),
        "baselines": len(result.baselines),
        **provenance_parameters(result),
    }


def condition_parameters(result: SplitResult) -> dict[str, str]:
    """Return the link, the speeds and those limits that the config sets."""
    link = result.link
    conditions = {
        "link_mbit": link.mbit,
        "link_rtt_ms": link.rtt_ms,
        "link_loss": link.loss,
        "device_speed": link.device_speed,
        "server_speed": link.server_speed,
        "deadline_ms": link.deadline_ms,
        "device_memory_limit": link.memory,
        "device_macs_limit": link.macs,
    }
    return {name: f"{value:g}" for name, value in conditions.items() if value is not None}


def point_parameters(point: SplitPointRecord) -> dict[str, Any]:
    """Return the split, its plan and its coding, and how certain its numbers are.

    `range95_NAME` is the 95% interval of a metric. `verdict_MODEL` is the significance of the
    change of a model against unsplit, with the change and its interval.
    """
    return {
        "way": "split",
        "split": point.label[:LONGEST_PARAMETER],
        "plan": str(SharePlan.from_dict(point.split["plan"]))[:LONGEST_PARAMETER],
        "device_precision": point.precision,
        "step": point.step,
        "bands": point.bands,
        "feasible": point.feasible,
        "recalibrated": point.recalibrated,
        **_certainty(point),
    }


def baseline_parameters(baseline: SplitBaselineRecord) -> dict[str, Any]:
    """Return what another way to answer is, and how certain its numbers are."""
    return {
        "way": baseline.kind,
        "split": baseline.name[:LONGEST_PARAMETER],
        **_certainty(baseline),
    }


def split_metrics(result: SplitResult) -> dict[str, float]:
    """Return the metrics of the chosen point, and the rank agreement where it is defined."""
    chosen = result.chosen_point
    agreement = {f"rank_{k}": rho for k, rho in result.rank_agreement.items() if rho is not None}
    return {**({} if chosen is None else point_metrics(chosen)), **agreement}


def point_metrics(point: SplitPointRecord) -> dict[str, float]:
    """Return the measured numbers of a point, and those that were predicted of it."""
    return {
        **way_metrics(point),
        "device_memory": float(point.device_memory),
        "codec_bytes": float(point.codec_bytes),
        "predicted_bytes": point.predicted_bytes,
        "distortion": point.distortion,
    }


def way_metrics(measured: SplitMeasurement) -> dict[str, float]:
    """Return the numbers that splits and all other ways to answer have alike."""
    metrics: dict[str, float | None] = {
        "bytes": measured.bytes,
        "bytes_p95": measured.bytes_p95,
        "device_macs": float(measured.device_macs),
        "device_bytes": float(measured.device_bytes),
        **{name: getattr(measured.times, name) for name in TIMES},
        "quality_kept": measured.quality_kept,
        "fidelity": measured.mean_fidelity,
        **_scores(measured.accuracy),
        **{f"kept_{name}": value for name, value in measured.kept.items()},
        **{f"fidelity_{name}": value for name, value in measured.fidelity.items()},
    }
    return {name: float(value) for name, value in metrics.items() if value is not None}


def point_run_name(point: SplitPointRecord) -> str:
    """Return a name that differs between points: bytes, ends, step, start of the hash."""
    label = point.label[:LONGEST_NOTED_LABEL]
    return f"{point.bytes:.0f} bytes, {label}, step {point.step}, {point.hash[:6]}"


def baseline_run_name(baseline: SplitBaselineRecord) -> str:
    """Return bytes and name."""
    return f"{baseline.bytes:.0f} bytes, {baseline.name[:LONGEST_NOTED_LABEL]}"


def split_note(result: SplitResult) -> str:
    """Return the note at the head of the run's page: conditions and points, in Markdown."""
    columns = ("point", "split", "step", "bytes", "device", "ms", "quality kept")
    rows = [columns, ("---",) * len(columns)]
    rows += [
        (
            f"**{point.hash}**" if point.hash == result.chosen else point.hash,
            point.label[:LONGEST_NOTED_LABEL],
            str(point.step),
            f"{point.bytes:.0f}",
            megabytes(point.device_bytes),
            f"{point.times.total_ms:.0f}",
            kept_text(point.quality_kept, result.unsplit.at_chance),
        )
        for point in result.points[:NOTED_POINTS]
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    conditions = ", ".join(f"{k} {v}" for k, v in condition_parameters(result).items())
    return f"**{result.name}**, split: {conditions}\n\n{table}\n"


def _scores(accuracy: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {
        f"{score}_{name}": scores[score]
        for name, scores in accuracy.items()
        for score in SCORES
        if score in scores
    }


def _certainty(measured: SplitMeasurement) -> dict[str, str]:
    texts = {
        f"range95_{score}_{name}": "{:.3f} to {:.3f}".format(*by_score[score])
        for name, by_score in measured.intervals.items()
        for score in SCORES
        if score in by_score
    }
    if measured.quality_interval is not None:
        texts["range95_quality_kept"] = "{:.3f} to {:.3f}".format(*measured.quality_interval)
    for name, differences in measured.differences.items():
        difference = differences[main_score_name(differences)]
        change, low, high = difference
        word = significance(difference)
        texts[f"verdict_{name}"] = f"{word}: {change:+.3f} ({low:.3f} to {high:.3f})"
    return texts
