"""The numbers and texts that MLflow shows of a search, its candidates and its frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.evaluation.confidence import ScoreIntervals
from search.evaluation.per_frame import Scores, main_score_name
from search.results.kept_quality import kept_text
from search.results.precisions import StoredBytes
from search.results.search_result import UNMERGED, CandidateRecord, Result
from search.tracking.payloads.common import provenance_parameters
from search.utils.format import MEGABYTE, percent
from spaces.plan import SharePlan

LONGEST_PARAMETER = 500
"""Characters in a parameter at most."""
LONGEST_NOTED_SHARES = 300
"""Characters of a plan's shares in the note, if its precisions stand beside them."""
NOTED_CANDIDATES = 10
"""Candidates in the note at most: MLflow accepts 8,000 characters."""
SCORES = ("top1", "top5", "map", "ap50", "recall1", "recall5", "miou", "pixels")
COST_METRICS = {
    ("activation", "MB"): "activation_mb",
    ("latency", "ms"): "latency_ms",
    ("latency", "ms/s"): "latency_ms_per_second",
}
"""MLflow's names of the objectives besides bytes and MACs, by name and unit."""


def search_parameters(result: Result) -> dict[str, Any]:
    """Return the limits and settings of the search, and the chosen plan."""
    chosen = result.chosen_candidate
    return {
        **({} if chosen is None else candidate_parameters(result, chosen)),
        **_limits(result),
        "models": _architectures(result),
        "metric": result.metric,
        "sampler": result.study["sampler"],
        "objectives": ", ".join(result.study["objectives"]),
        "trials": result.study["trials"],
        **_choice_of_precisions(result),
        **({"rates": result.rates_text[:LONGEST_PARAMETER]} if result.rates else {}),
        **provenance_parameters(result),
    }


def _choice_of_precisions(result: Result) -> dict[str, str]:
    precisions = result.config["search"].get("precision")
    return {"search.precision": ", ".join(precisions)} if precisions else {}


def plan_parameters(result: Result, plan: SharePlan, precision: str = "") -> dict[str, Any]:
    """Return the shares of a plan, its precisions in words, and the limits of its search.

    `precision` is logged if any plan of the result has precisions; without it the plan stores all
    weights in the dtype of the config. All plans have the same keys, so that MLflow shows them
    side by side.
    """
    shares = plan.shares
    return {
        **_limits(result),
        "shares": len(shares),
        "donor": _unique(share.donor.model for share in shares),
        "recipient": _unique(share.recipient.model for share in shares),
        "stages": _unique(f"{s.donor.stage} -> {s.recipient.stage}" for s in shares),
        "adapter": _unique(str(share.adapter) for share in shares),
        "maps": "refined" if plan.refined else "closed form",
        "plan": str(plan)[:LONGEST_PARAMETER],
        **_precision(result, precision),
    }


def _precision(result: Result, words: str) -> dict[str, str]:
    if not result.has_precisions:
        return {}
    return {"precision": (words or f"weights in {result.dtype}")[:LONGEST_PARAMETER]}


def candidate_parameters(result: Result, candidate: CandidateRecord) -> dict[str, Any]:
    """Return the shares of the plan, and how certain its numbers are.

    `range95_NAME` is the 95% interval of a metric. `verdict_MODEL` is the significance of the
    change of a model, with the change and its interval.
    """
    plan = SharePlan.from_dict(candidate.plan)
    shares = {f"share_{k}": str(share) for k, share in enumerate(plan.shares, start=1)}
    several = shares if len(shares) > 1 else {}
    return {
        **plan_parameters(result, plan, candidate.precision_text),
        **several,
        **certainty_parameters(candidate),
    }


def certainty_parameters(candidate: CandidateRecord) -> dict[str, str]:
    """Return how certain the numbers are; see `candidate_parameters`."""
    return {
        **_intervals(candidate.intervals, candidate.quality_interval),
        **{
            f"verdict_{name}": _describe_significance(candidate, name)
            for name in candidate.differences
        },
    }


def _intervals(intervals: ScoreIntervals, quality: Sequence[float] | None) -> dict[str, str]:
    ranges = {
        f"range95_{score}_{name}": _range(by_score[score])
        for name, by_score in intervals.items()
        for score in SCORES
        if score in by_score
    }
    return ranges if quality is None else {"range95_quality_kept": _range(quality), **ranges}


def _describe_significance(candidate: CandidateRecord, name: str) -> str:
    differences = candidate.differences[name]
    change, *interval = differences[main_score_name(differences)]
    return f"{candidate.significance_by_model[name]}: {change:+.3f} ({_range(interval)})"


def _range(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{low:.3f} to {high:.3f}"


def candidate_run_name(candidate: CandidateRecord) -> str:
    """Return a name that differs between candidates: bytes, shares, start of the hash."""
    shares = SharePlan.from_dict(candidate.plan).shares
    shared = (
        f"{shares[0].donor} -> {shares[0].recipient}"
        if len(shares) == 1
        else _unique(f"{s.donor.model} -> {s.recipient.model}" for s in shares)
    )
    return f"{candidate.bytes / MEGABYTE:.1f} MB, {shared}, {candidate.hash[:6]}"


def search_note(result: Result) -> str:
    """Return the note at the head of the run's page: limits and candidates, in Markdown."""
    columns = search_note_columns(result)
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(row) for row in zip(*columns.values(), strict=True)]
    table = "\n".join(f"| {line} |" for line in lines)
    limits = ", ".join(f"{name} {value}" for name, value in _limits(result).items())
    return f"**{result.name}**: {_architectures(result)}; {limits}\n\n{table}\n"


def search_note_columns(result: Result) -> dict[str, list[str]]:
    """Return the table of the first candidates: MLflow refuses a note that is too long."""
    candidates = result.candidates[:NOTED_CANDIDATES]
    columns = {
        "plan": [f"**{c.hash}**" if c.hash == result.chosen else c.hash for c in candidates],
        "MB": [f"{c.bytes / MEGABYTE:.2f}" for c in candidates],
        "saved": [f"{c.saved_pct:.1f}%" for c in candidates],
        "quality kept": [kept_text(c.quality_kept, result.at_chance) for c in candidates],
        "fidelity": [percent(c.mean_fidelity) for c in candidates],
    }
    plans = [SharePlan.from_dict(c.plan) for c in candidates]
    if not result.has_precisions:
        return columns | {"shares": [str(plan)[:LONGEST_PARAMETER] for plan in plans]}
    words = [_precision(result, c.precision_text)["precision"] for c in candidates]
    return columns | {
        "shares": [str(plan.with_precisions({}))[:LONGEST_NOTED_SHARES] for plan in plans],
        "precision": [text[: LONGEST_PARAMETER - LONGEST_NOTED_SHARES] for text in words],
    }


def model_parameters(result: Result, candidate: CandidateRecord) -> dict[str, Any]:
    """Return the parameters of the logged model, which MLflow shows where models are compared."""
    return {
        "models": _architectures(result),
        "bytes": candidate.bytes,
        "dtype": result.config["dtype"],
        **candidate_parameters(result, candidate),
    }


@dataclass(frozen=True)
class DatasetFacts:
    """A set of frames, as MLflow shows a dataset."""

    name: str
    context: str
    """The use of the frames."""
    digest: str
    """Hash of the frames."""
    source: Mapping[str, Any]
    """The section of the config that names the frames."""
    profile: Mapping[str, Any]


def dataset_facts(result: Result) -> list[DatasetFacts]:
    """Return the unlabelled frames, and each model's labelled frames."""
    frames, name = result.frames, result.name
    facts = [
        DatasetFacts(f"{name} frames", "search", frames["hash"], result.config["frames"],
                     {"frames": frames["count"]})
    ]  # fmt: skip
    for model, data in result.truth.items():
        profile = {"frames": data["count"], "labels": data["labels"]}
        facts.append(
            DatasetFacts(f"{name} labels of {model}", f"truth of {model}", data["hash"],
                         result.config["truth"][model], profile)
        )  # fmt: skip
    return facts


def rank_agreement_metrics(result: Result) -> dict[str, float]:
    """Return the rank agreement of the verification stages; undefined values are left out."""
    return {f"rank_{name}": rho for name, rho in result.rank_agreement.items() if rho is not None}


def unmerged_metrics(result: Result) -> dict[str, float]:
    """Return the metrics of a candidate that shares nothing, to compare the others with."""
    metrics = {
        "bytes_mb": result.unmerged_bytes / MEGABYTE,
        **_bytes_by_precision(result, {}, result.unmerged_bytes),
        "macs_m": result.unmerged_macs / 1e6,
        **_macs_per_second(result.unmerged_macs_per_second),
        "saved_pct": 0.0,
        "proxy": 1.0,
        "fidelity": 1.0,
        **_accuracy_metrics(result.baseline),
        **{f"kept_{name}": 1.0 for name in result.models},
        **{f"fidelity_{name}": 1.0 for name in result.models},
        **_latency(result, UNMERGED),
    }
    return metrics | ({"quality_kept": 1.0} if result.baseline else {})


def search_metrics(result: Result) -> dict[str, float]:
    """Return the metrics of the chosen candidate and of the search as a whole."""
    chosen = result.chosen_candidate
    metrics = {} if chosen is None else measured_metrics(result, chosen)
    return {**metrics, **rank_agreement_metrics(result)}


def measured_metrics(result: Result, candidate: CandidateRecord) -> dict[str, float]:
    """Return a candidate's metrics, with its latency if the search measured it."""
    return {
        **_latency(result, candidate.hash),
        **candidate_metrics(candidate),
        **_bytes_by_precision(result, candidate.stored, candidate.bytes),
    }


def _bytes_by_precision(result: Result, stored: StoredBytes, total_bytes: int) -> dict[str, float]:
    """Return the bytes of each precision that occurs in the result, if a plan has precisions.

    All candidates and the unmerged models have the same metrics, so that they line up.
    """
    if not result.has_precisions:
        return {}
    own = {precision: sum(owners.values()) for precision, owners in stored.items()}
    own = own or {result.dtype: total_bytes}
    used = sorted({result.dtype, *(p for c in result.candidates for p in c.stored)})
    return {f"bytes_{precision}": float(own.get(precision, 0)) for precision in used}


def candidate_metrics(candidate: CandidateRecord) -> dict[str, float]:
    """Return the measured numbers; their intervals are parameters."""
    metrics: dict[str, float | None] = {
        "bytes_mb": candidate.bytes / MEGABYTE,
        "macs_m": candidate.macs / 1e6,
        **_macs_per_second(candidate.macs_per_second),
        "saved_pct": candidate.saved_pct,
        "proxy": candidate.proxy,
        "fidelity": candidate.mean_fidelity,
        "quality_kept": candidate.quality_kept,
        **_accuracy_metrics(candidate.accuracy),
        **{f"kept_{name}": value for name, value in candidate.kept.items()},
        **{f"fidelity_{name}": value for name, value in candidate.fidelity.items()},
        **_objectives(candidate),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def _macs_per_second(macs: float | None) -> dict[str, float]:
    return {} if macs is None else {"macs_per_second_m": macs / 1e6}


def _objectives(candidate: CandidateRecord) -> dict[str, float]:
    return {
        COST_METRICS[name, candidate.cost_units[name]]: value
        for name, value in candidate.costs_besides_bytes.items()
        if name != "macs"
    }


def front_columns(result: Result) -> dict[str, list[Any]]:
    return {
        "plan": [record.hash for record in result.front],
        "bytes_mb": [record.bytes / MEGABYTE for record in result.front],
        "saved_pct": [record.saved_pct for record in result.front],
        "proxy": [record.proxy for record in result.front],
        "shares": [str(SharePlan.from_dict(record.plan)) for record in result.front],
    }


def stages_markdown(result: Result) -> str:
    lines = ["| model | stage | shape | bytes | MACs | tap |", "|---|---|---|---|---|---|"]
    for name, model in result.models.items():
        for stage in model.stages:
            shape = "x".join(str(side) for side in stage["shape"])
            tap = "tap" if stage["tap"] else ""
            lines.append(
                f"| {name} | {stage['name']} | {shape} | {stage['bytes']} | {stage['macs']} "
                f"| {tap} |"
            )
        lines.append(f"| {name} | head | | {model.head_bytes} | {model.head_macs} | |")
    return "\n".join(lines) + "\n"


def _architectures(result: Result) -> str:
    return ", ".join(f"{name}={model.arch}" for name, model in result.models.items())


def _latency(result: Result, plan: str) -> dict[str, float]:
    latency = result.latency_ms.get(plan)
    return {} if latency is None else {"latency_ms": latency}


def _unique(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts)) or "-"


def _limits(result: Result) -> dict[str, str]:
    """Return the limits that the config sets."""
    limits = {}
    if result.budget_bytes is not None:
        limits["budget_mb"] = f"{result.budget_bytes / MEGABYTE:.2f}"
    if result.quality_floor is not None:
        limits["quality_floor"] = str(result.quality_floor)
    return limits


def _accuracy_metrics(accuracy: Mapping[str, Scores]) -> dict[str, float]:
    return {
        f"{score}_{name}": scores[score]
        for name, scores in accuracy.items()
        for score in SCORES
        if score in scores
    }
