"""How well each rung of the ladder foretold the next: rank correlations over plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search.evaluation.correlation import correlation_alone, spearman
from search.evaluation.per_frame import mean_known
from search.results.search_result import CandidateRecord, Rungs

Known = Sequence[float | None]


def rungs(candidates: Sequence[CandidateRecord]) -> Rungs:
    """Spearman's rho between proxy, mean fidelity and quality kept of the verified candidates.

    None for fewer than three candidates of which both are known, or where either is constant.
    """
    proxy: Known = [c.proxy for c in candidates]
    fidelity: Known = [c.mean_fidelity for c in candidates]
    truth: Known = [c.quality_kept for c in candidates]
    return {
        "proxy_fidelity": _rho(proxy, fidelity),
        "proxy_truth": _rho(proxy, truth),
        "fidelity_truth": _rho(fidelity, truth),
    }


def shortlist_rung(
    proxies: Sequence[float], faithful: Sequence[Mapping[str, float | None]]
) -> Rungs:
    """The same of proxy and mean fidelity over the whole shortlist, of which there are more."""
    return {"shortlist_proxy_fidelity": _rho(proxies, [mean_known(f) for f in faithful])}


def in_words(found: Rungs) -> str:
    """One line for a person."""
    told = {name: "-" if rho is None else f"{rho:z.2f}" for name, rho in found.items()}
    shortlist = told.get("shortlist_proxy_fidelity")
    more = "" if shortlist is None else f" (shortlist {shortlist})"
    return (
        f"Rank correlation: proxy and fidelity {told['proxy_fidelity']}{more}, "
        f"proxy and truth {told['proxy_truth']}, fidelity and truth {told['fidelity_truth']}"
    )


def _rho(x: Known, y: Known) -> float | None:
    both = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    if not both:
        return None
    columns = np.array(both, dtype=np.float64).T
    return correlation_alone(spearman, columns[0], columns[1])
