"""What is told to MLflow of a league of guides, and of a verification on other data."""

from __future__ import annotations

from typing import Any

from search.evaluation.per_frame import main_name
from search.results.metric_comparison import GROUPS, MetricComparison
from search.results.verification import Verification
from search.tracking.payloads.common import origin
from search.tracking.payloads.search_run import certainty
from spaces.plan import SharePlan


def verification_parameters(verification: Verification) -> dict[str, Any]:
    """What the plans were verified on; of which result, by its identity."""
    labelled = {f"labelled_{name}": f["count"] for name, f in verification.truth.items()}
    return {
        "result": verification.result,
        "against": verification.against,
        "plans": len(verification.candidates),
        **labelled,
        **{f"labelled_{name}_hash": f["hash"] for name, f in verification.truth.items()},
        **({} if verification.foremost is None else certainty(verification.foremost)),
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


def league_parameters(league: MetricComparison) -> dict[str, Any]:
    return {
        "models": ", ".join(f"{name}={arch}" for name, arch in league.models.items()),
        "adapters": ", ".join(league.adapters),
        "shares": league.shares["all"],
        "winner": str(league.winner),
        **origin(league),
    }


def league_metrics(league: MetricComparison) -> dict[str, float]:
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


def league_columns(league: MetricComparison) -> dict[str, list[Any]]:
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
