"""What is told to MLflow of a result: tags, parameters, metrics and tables, as plain data.

Nothing here reads a clock, so telling it again tells the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from search.intervals import Intervals
from search.league import GROUPS, League
from search.result import CandidateRecord, Result
from search.tally import Scores, main_name
from search.verification import Verification
from spaces.plan import SharePlan

SCORES = ("top1", "top5", "map", "ap50")
MEASURED = {"activation": "activation_mb", "latency": "latency_ms"}
"""Objectives that are logged beside bytes and MACs, by the metric's name."""


class Outcome(Protocol):
    """What every result says of where it comes from."""

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def frames(self) -> Mapping[str, Any]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...
    @property
    def created(self) -> str: ...
    @property
    def versions(self) -> Mapping[str, str]: ...


def span(outcome: Outcome) -> tuple[int, int]:
    """When the work began and when it was done, in milliseconds since 1970."""
    done = int(datetime.fromisoformat(outcome.created).timestamp() * 1000)
    return done - int(sum(outcome.seconds.values()) * 1000), done


def tags(outcome: Outcome) -> dict[str, str]:
    return {
        "merge_search.search": outcome.name,
        "merge_search.frames": str(outcome.frames["hash"]),
    }


def origin(outcome: Outcome) -> dict[str, Any]:
    """The parameters of every result: what its numbers depend on."""
    return {
        "seed": outcome.seed,
        "frames": outcome.frames["count"],
        "frames_hash": outcome.frames["hash"],
        **{f"version_{name}": number for name, number in outcome.versions.items()},
    }


def search_parameters(result: Result) -> dict[str, Any]:
    return {
        **_limits(result),
        "models": _architectures(result),
        "metric": result.metric,
        "sampler": result.study["sampler"],
        "objectives": ", ".join(result.study["objectives"]),
        "trials": result.study["trials"],
        **origin(result),
    }


def plan_parameters(candidate: CandidateRecord) -> dict[str, Any]:
    plan = SharePlan.from_dict(candidate.plan)
    shares = {f"share_{k}": str(share) for k, share in enumerate(plan.shares, start=1)}
    verdicts = {f"verdict_{name}": verdict for name, verdict in candidate.verdicts.items()}
    return {"shares": len(plan.shares), "plan": str(plan)[:500], **shares, **verdicts}


def model_parameters(result: Result, candidate: CandidateRecord) -> dict[str, Any]:
    """What a merged model is, where models are compared."""
    return {
        "models": _architectures(result),
        "bytes": candidate.bytes,
        "dtype": result.config["dtype"],
        **_limits(result),
        **plan_parameters(candidate),
    }


def rung_metrics(result: Result) -> dict[str, float]:
    """How well each rung of the ladder foretold the next; what is not defined is not logged."""
    return {f"rank_{name}": rho for name, rho in result.rungs.items() if rho is not None}


def unmerged_metrics(result: Result) -> dict[str, float]:
    """The metrics of a candidate that shares nothing, so that it compares with the others."""
    metrics = {
        "bytes_mb": result.unmerged_bytes / 1e6,
        "macs_m": result.unmerged_macs / 1e6,
        "saved_pct": 0.0,
        "proxy": 1.0,
        "fidelity": 1.0,
        **_accuracy_metrics(result.baseline, result.baseline_intervals),
        **{f"kept_{name}": 1.0 for name in result.models},
    }
    for name in result.baseline:
        metrics |= _bounded(f"change_{name}", 0.0, (0.0, 0.0))
    return metrics | (_bounded("quality_kept", 1.0, (1.0, 1.0)) if result.baseline else {})


def candidate_metrics(candidate: CandidateRecord) -> dict[str, float]:
    metrics = {
        "bytes_mb": candidate.bytes / 1e6,
        "macs_m": candidate.macs / 1e6,
        "saved_pct": candidate.saved_pct,
        "proxy": candidate.proxy,
        **_accuracy_metrics(candidate.accuracy, candidate.intervals),
    }
    metrics |= {f"kept_{name}": kept for name, kept in candidate.kept.items()}
    metrics |= {
        title: candidate.costs[cost] for cost, title in MEASURED.items() if cost in candidate.costs
    }
    for name, found in candidate.differences.items():
        change, *interval = found[main_name(found)]
        metrics |= _bounded(f"change_{name}", change, interval)
    if candidate.quality_kept is not None and candidate.quality_interval is not None:
        metrics |= _bounded("quality_kept", candidate.quality_kept, candidate.quality_interval)
    if candidate.mean_fidelity is not None:
        metrics["fidelity"] = candidate.mean_fidelity
    for name, value in candidate.fidelity.items():
        if value is not None:
            metrics[f"fidelity_{name}"] = value
    return metrics


def front_columns(result: Result) -> dict[str, list[Any]]:
    return {
        "plan": [record.hash for record in result.front],
        "bytes_mb": [record.bytes / 1e6 for record in result.front],
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


def verification_parameters(verification: Verification) -> dict[str, Any]:
    """What the plans were verified on; of which result, by its identity."""
    labelled = {f"labelled_{name}": f["count"] for name, f in verification.truth.items()}
    return {
        "result": verification.result,
        "against": verification.against,
        "plans": len(verification.candidates),
        **labelled,
        **{f"labelled_{name}_hash": f["hash"] for name, f in verification.truth.items()},
        **origin(verification),
    }


def verification_columns(verification: Verification) -> dict[str, list[Any]]:
    """One row per plan; a main score for each model with labels."""
    found = verification.candidates
    columns: dict[str, list[Any]] = {
        "plan": [c.hash for c in found],
        "bytes_mb": [c.bytes / 1e6 for c in found],
        "saved_pct": [c.saved_pct for c in found],
        "quality_kept": [c.quality_kept for c in found],
        "fidelity": [c.mean_fidelity for c in found],
    }
    for name, scores in verification.baseline.items():
        main = main_name(scores)
        columns[f"{main}_{name}"] = [c.accuracy[name][main] for c in found]
    return columns | {"shares": [str(SharePlan.from_dict(c.plan)) for c in found]}


def league_parameters(league: League) -> dict[str, Any]:
    return {
        "models": ", ".join(f"{name}={arch}" for name, arch in league.models.items()),
        "adapters": ", ".join(league.adapters),
        "shares": league.shares["all"],
        "winner": str(league.winner),
        **origin(league),
    }


def league_metrics(league: League) -> dict[str, float]:
    """`r_GUIDE` over all shares, `r_same_GUIDE` and so on; what is not defined is not logged."""
    metrics = {f"seconds_{name}": taken for name, taken in league.guide_seconds.items()}
    metrics["seconds_statistics"] = league.seconds["statistics"]
    for name, groups in league.reporting.guides.items():
        for group, found in groups.items():
            prefix = "" if group == "all" else f"{group}_"
            for coefficient, symbol in (("pearson", "r"), ("spearman", "rho"), ("kendall", "tau")):
                value = found[coefficient].value
                if value is not None:
                    metrics[f"{symbol}_{prefix}{name}"] = value
    return metrics


def league_columns(league: League) -> dict[str, list[Any]]:
    """The league table, best guide first; NaN where a correlation is not defined."""
    ranking, measured = league.deciding.ranking, league.reporting
    columns: dict[str, list[Any]] = {
        "guide": ranking,
        "decided": [league.deciding.pearson(name).value for name in ranking],
        "seconds": [league.guide_seconds[name] for name in ranking],
    }
    for group in GROUPS:
        found = [measured.pearson(name, group) for name in ranking]
        columns[f"r_{group}"] = [entry.value for entry in found]
        columns[f"r_{group}_low"] = [entry.low for entry in found]
        columns[f"r_{group}_high"] = [entry.high for entry in found]
    return columns


def _architectures(result: Result) -> str:
    return ", ".join(f"{name}={model.arch}" for name, model in result.models.items())


def _limits(result: Result) -> dict[str, str]:
    """What the search had to keep to; what it had not is not named."""
    limits = {}
    if result.budget_bytes is not None:
        limits["budget_mb"] = f"{result.budget_bytes / 1e6:.2f}"
    if result.quality_floor is not None:
        limits["quality_floor"] = str(result.quality_floor)
    return limits


def _accuracy_metrics(accuracy: Mapping[str, Scores], intervals: Intervals) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, scores in accuracy.items():
        for score in SCORES:
            if score in scores:
                metrics |= _bounded(f"{score}_{name}", scores[score], intervals[name][score])
    return metrics


def _bounded(name: str, value: float, interval: Sequence[float]) -> dict[str, float]:
    low, high = interval
    return {name: value, f"{name}_low": low, f"{name}_high": high}
