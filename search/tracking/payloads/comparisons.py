"""The numbers and texts that MLflow shows of a metric comparison and of a verification."""

from __future__ import annotations

from typing import Any

from search.evaluation.per_frame import main_score_name
from search.results.metric_comparison import SHARE_GROUPS, MetricComparison
from search.results.verification import Verification
from search.tracking.payloads.common import provenance_parameters
from search.tracking.payloads.search_run import certainty_parameters
from spaces.plan import SharePlan


def verification_parameters(verification: Verification) -> dict[str, Any]:
    """Return the data that the plans were verified on, and the result that they come from."""
    main = verification.main_candidate
    return {
        "result": verification.result,
        "against": verification.against,
        "plans": len(verification.candidates),
        **{f"labelled_{name}": data["count"] for name, data in verification.truth.items()},
        **{f"labelled_{name}_hash": data["hash"] for name, data in verification.truth.items()},
        **({} if main is None else certainty_parameters(main)),
        **provenance_parameters(verification),
    }


def verification_columns(verification: Verification) -> dict[str, list[Any]]:
    """Return one row per plan, with the main score of each model that has labels."""
    candidates = verification.candidates
    columns: dict[str, list[Any]] = {
        "plan": [c.hash for c in candidates],
        "bytes_mb": [c.bytes / 1e6 for c in candidates],
        "saved_pct": [c.saved_pct for c in candidates],
        "quality_kept": [c.quality_kept for c in candidates],
        "fidelity": [c.mean_fidelity for c in candidates],
    }
    for name, scores in verification.baseline.items():
        main = main_score_name(scores)
        columns[f"{main}_{name}"] = [c.accuracy[name][main] for c in candidates]
    return columns | {"shares": [str(SharePlan.from_dict(c.plan)) for c in candidates]}


def metric_comparison_parameters(comparison: MetricComparison) -> dict[str, Any]:
    return {
        "models": ", ".join(f"{name}={arch}" for name, arch in comparison.models.items()),
        "adapters": ", ".join(comparison.adapters),
        "shares": comparison.shares["all"],
        "winner": str(comparison.winner),
        **provenance_parameters(comparison),
    }


def metric_comparison_metrics(comparison: MetricComparison) -> dict[str, float]:
    """Return `r_METRIC` over all shares, `r_same_METRIC` and so on; undefined ones are omitted."""
    numbers = {f"seconds_{name}": time for name, time in comparison.metric_seconds.items()}
    numbers["seconds_statistics"] = comparison.seconds["statistics"]
    for name, groups in comparison.reporting.metrics.items():
        for group, correlations in groups.items():
            prefix = "" if group == "all" else f"{group}_"
            for coefficient, symbol in (("pearson", "r"), ("spearman", "rho"), ("kendall", "tau")):
                value = correlations[coefficient].value
                if value is not None:
                    numbers[f"{symbol}_{prefix}{name}"] = value
    return numbers


def metric_comparison_columns(comparison: MetricComparison) -> dict[str, list[Any]]:
    """Return one row per metric, the best first; NaN where a correlation is undefined."""
    ranking, reporting = comparison.deciding.ranking, comparison.reporting
    columns: dict[str, list[Any]] = {
        "guide": ranking,
        "decided": [comparison.deciding.pearson(name).value for name in ranking],
        "seconds": [comparison.metric_seconds[name] for name in ranking],
    }
    for group in SHARE_GROUPS:
        correlations = [reporting.pearson(name, group) for name in ranking]
        columns[f"r_{group}"] = [correlation.value for correlation in correlations]
        columns[f"r_{group}_low"] = [correlation.low for correlation in correlations]
        columns[f"r_{group}_high"] = [correlation.high for correlation in correlations]
    return columns
