"""What is told to MLflow of a search, of its candidates and of its frames, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.evaluation.confidence import Intervals
from search.evaluation.per_frame import Scores, main_name
from search.results.search_result import UNMERGED, CandidateRecord, Result
from search.tracking.payloads.common import origin
from search.utils.format import MEGABYTE, percent
from spaces.plan import SharePlan

LONGEST = 500
"""Characters of a parameter."""
MOST_NOTED = 10
"""Candidates in the note, of which MLflow takes 8,000 characters."""
SCORES = ("top1", "top5", "map", "ap50")
MEASURED = {"activation": "activation_mb", "latency": "latency_ms"}
"""Objectives that are logged beside bytes and MACs, by the metric's name."""


def search_parameters(result: Result) -> dict[str, Any]:
    """What was asked of it, and the plan that was chosen: so searches stand beside each other."""
    chosen = result.chosen_candidate
    return {
        **({} if chosen is None else candidate_parameters(result, chosen)),
        **_limits(result),
        "models": _architectures(result),
        "metric": result.metric,
        "sampler": result.study["sampler"],
        "objectives": ", ".join(result.study["objectives"]),
        "trials": result.study["trials"],
        **origin(result),
    }


def plan_parameters(result: Result, plan: SharePlan) -> dict[str, Any]:
    """The facts of a plan: of what is shared, and of what was asked. Equal keys for all plans, so
    that they stand beside each other."""
    shares = plan.shares
    return {
        **_limits(result),
        "shares": len(shares),
        "donor": _each_once(share.donor.model for share in shares),
        "recipient": _each_once(share.recipient.model for share in shares),
        "stages": _each_once(f"{s.donor.stage} -> {s.recipient.stage}" for s in shares),
        "adapter": _each_once(str(share.adapter) for share in shares),
        "plan": str(plan)[:LONGEST],
    }


def candidate_parameters(result: Result, candidate: CandidateRecord) -> dict[str, Any]:
    """The plan's facts, and how sure its numbers are: `range95_NAME` is a metric's interval, and
    `verdict_MODEL` says in a word, and with its interval, what has become of a model."""
    plan = SharePlan.from_dict(candidate.plan)
    shares = {f"share_{k}": str(share) for k, share in enumerate(plan.shares, start=1)}
    several = shares if len(shares) > 1 else {}
    return {**plan_parameters(result, plan), **several, **certainty(candidate)}


def certainty(candidate: CandidateRecord) -> dict[str, str]:
    """How sure a candidate's numbers are: see `candidate_parameters`."""
    return {
        **_intervals(candidate.intervals, candidate.quality_interval),
        **{f"verdict_{name}": _verdict(candidate, name) for name in candidate.differences},
    }


def _intervals(intervals: Intervals, quality: Sequence[float] | None) -> dict[str, str]:
    told = {
        f"range95_{score}_{name}": _between(found[score])
        for name, found in intervals.items()
        for score in SCORES
        if score in found
    }
    return told if quality is None else {"range95_quality_kept": _between(quality), **told}


def _verdict(candidate: CandidateRecord, name: str) -> str:
    found = candidate.differences[name]
    change, *interval = found[main_name(found)]
    return f"{candidate.verdicts[name]}: {change:+.3f} ({_between(interval)})"


def _between(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{low:.3f} to {high:.3f}"


def run_name(candidate: CandidateRecord) -> str:
    """What tells a candidate from the others of its search, shortest first: bytes, what is
    shared, and the beginning of its hash."""
    shares = SharePlan.from_dict(candidate.plan).shares
    told = (
        f"{shares[0].donor} -> {shares[0].recipient}"
        if len(shares) == 1
        else _each_once(f"{s.donor.model} -> {s.recipient.model}" for s in shares)
    )
    return f"{candidate.bytes / MEGABYTE:.1f} MB, {told}, {candidate.hash[:6]}"


def note(result: Result) -> str:
    """The search in Markdown, for the head of its page: what was asked, and what was found."""
    columns = note_columns(result)
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(row) for row in zip(*columns.values(), strict=True)]
    table = "\n".join(f"| {line} |" for line in lines)
    asked = ", ".join(f"{name} {value}" for name, value in _limits(result).items())
    return f"**{result.name}**: {_architectures(result)}; {asked}\n\n{table}\n"


def note_columns(result: Result) -> dict[str, list[str]]:
    """Of the first candidates: a note that is too long would be refused with all the rest."""
    found = result.candidates[:MOST_NOTED]
    return {
        "plan": [f"**{c.hash}**" if c.hash == result.chosen else c.hash for c in found],
        "MB": [f"{c.bytes / MEGABYTE:.2f}" for c in found],
        "saved": [f"{c.saved_pct:.1f}%" for c in found],
        "quality kept": [percent(c.quality_kept) for c in found],
        "fidelity": [percent(c.mean_fidelity) for c in found],
        "shares": [str(SharePlan.from_dict(c.plan))[:LONGEST] for c in found],
    }


def model_parameters(result: Result, candidate: CandidateRecord) -> dict[str, Any]:
    """What a merged model is, where models are compared."""
    return {
        "models": _architectures(result),
        "bytes": candidate.bytes,
        "dtype": result.config["dtype"],
        **candidate_parameters(result, candidate),
    }


@dataclass(frozen=True)
class DatasetFacts:
    """What MLflow says of frames: their hash is the digest."""

    name: str
    context: str
    """What they were for."""
    digest: str
    source: Mapping[str, Any]
    """The section of the config that names them."""
    profile: Mapping[str, Any]


def datasets(result: Result) -> list[DatasetFacts]:
    """The unlabelled frames, and each model's labelled ones."""
    frames, name = result.frames, result.name
    found = [
        DatasetFacts(f"{name} frames", "search", frames["hash"], result.config["frames"],
                     {"frames": frames["count"]})
    ]  # fmt: skip
    for model, known in result.truth.items():
        profile = {"frames": known["count"], "labels": known["labels"]}
        found.append(
            DatasetFacts(f"{name} labels of {model}", f"truth of {model}", known["hash"],
                         result.config["truth"][model], profile)
        )  # fmt: skip
    return found


def rung_metrics(result: Result) -> dict[str, float]:
    """How well each rung of the ladder foretold the next; what is not defined is not logged."""
    return {f"rank_{name}": rho for name, rho in result.rungs.items() if rho is not None}


def unmerged_metrics(result: Result) -> dict[str, float]:
    """The metrics of a candidate that shares nothing, so that it compares with the others."""
    metrics = {
        "bytes_mb": result.unmerged_bytes / MEGABYTE,
        "macs_m": result.unmerged_macs / 1e6,
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
    """Of the search as a whole, with those of the candidate that was chosen."""
    chosen = result.chosen_candidate
    found = {} if chosen is None else measured_metrics(result, chosen)
    return {**found, **rung_metrics(result)}


def measured_metrics(result: Result, candidate: CandidateRecord) -> dict[str, float]:
    """A candidate's metrics, and its latency where the search has measured it."""
    return {**_latency(result, candidate.hash), **candidate_metrics(candidate)}


def candidate_metrics(candidate: CandidateRecord) -> dict[str, float]:
    """What is measured, a number each; how sure it is stands in the parameters."""
    known: dict[str, float | None] = {
        "bytes_mb": candidate.bytes / MEGABYTE,
        "macs_m": candidate.macs / 1e6,
        "saved_pct": candidate.saved_pct,
        "proxy": candidate.proxy,
        "fidelity": candidate.mean_fidelity,
        "quality_kept": candidate.quality_kept,
        **_accuracy_metrics(candidate.accuracy),
        **{f"kept_{name}": kept for name, kept in candidate.kept.items()},
        **{f"fidelity_{name}": value for name, value in candidate.fidelity.items()},
        **{title: candidate.costs.get(cost) for cost, title in MEASURED.items()},
    }
    return {name: value for name, value in known.items() if value is not None}


def front_columns(result: Result) -> dict[str, list[Any]]:
    return {
        "plan": [record.hash for record in result.front],
        "bytes_mb": [record.bytes / MEGABYTE for record in result.front],
        "saved_pct": [record.saved_pct for record in result.front],
        "proxy": [record.proxy for record in result.front],
        "shares": [str(SharePlan.from_dict(record.plan)) for record in result.front],
    }


def stage_table(result: Result) -> str:
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
    known = result.latency_ms.get(plan)
    return {} if known is None else {"latency_ms": known}


def _each_once(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts)) or "-"


def _limits(result: Result) -> dict[str, str]:
    """What the search had to keep to; what it had not is not named."""
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
