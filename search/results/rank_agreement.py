"""How well each verification stage predicts the next: rank correlations over plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search.evaluation.correlation import point_correlation, spearman
from search.evaluation.per_frame import mean_of_available
from search.results.search_result import CandidateRecord, RankAgreement

MaybeNumbers = Sequence[float | None]


def rank_agreement(candidates: Sequence[CandidateRecord]) -> RankAgreement:
    """Return Spearman's rho between proxy, mean fidelity and quality kept of verified candidates.

    A value is None if fewer than three candidates have both numbers, or if either is constant.
    """
    proxy: MaybeNumbers = [c.proxy for c in candidates]
    fidelity: MaybeNumbers = [c.mean_fidelity for c in candidates]
    quality: MaybeNumbers = [c.quality_kept for c in candidates]
    return {
        "proxy_fidelity": rank_correlation(proxy, fidelity),
        "proxy_truth": rank_correlation(proxy, quality),
        "fidelity_truth": rank_correlation(fidelity, quality),
    }


def shortlist_rank_agreement(
    proxies: Sequence[float], fidelities: Sequence[Mapping[str, float | None]]
) -> RankAgreement:
    """Return the rank agreement of proxy and mean fidelity over the whole shortlist.

    The shortlist holds more plans than are verified.
    """
    return {
        "shortlist_proxy_fidelity": rank_correlation(
            proxies, [mean_of_available(f) for f in fidelities]
        )
    }


def describe_rank_agreement(agreement: RankAgreement) -> str:
    """Return the rank agreement as one line of text."""
    rounded = {name: "-" if rho is None else f"{rho:z.2f}" for name, rho in agreement.items()}
    shortlist = rounded.get("shortlist_proxy_fidelity")
    suffix = "" if shortlist is None else f" (shortlist {shortlist})"
    return (
        f"Rank agreement: proxy and fidelity {rounded['proxy_fidelity']}{suffix}, "
        f"proxy and ground truth {rounded['proxy_truth']}, "
        f"fidelity and ground truth {rounded['fidelity_truth']}"
    )


def rank_correlation(x: MaybeNumbers, y: MaybeNumbers) -> float | None:
    """Return Spearman's rho over the places where both are given; None if it is undefined."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    columns = np.array(pairs, dtype=np.float64).T
    return point_correlation(spearman, columns[0], columns[1])
