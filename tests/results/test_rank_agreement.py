"""Rank correlations between the verification stages, computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from search.results.rank_agreement import (
    describe_rank_agreement,
    rank_agreement,
    shortlist_rank_agreement,
)
from search.results.search_result import CandidateRecord
from spaces.plan import SharePlan


def candidates(*numbers: tuple[float, float | None, float | None]) -> list[CandidateRecord]:
    """Return a candidate for each (proxy, fidelity, quality kept)."""
    plan: dict[str, Any] = SharePlan().to_dict()
    return [
        CandidateRecord(
            str(k), plan, 1, 1, 0.0, proxy, {}, {"a": fidelity}, {}, {}, quality, {}, {}, None
        )
        for k, (proxy, fidelity, quality) in enumerate(numbers)
    ]


def test_only_the_order_matters() -> None:
    agreement = rank_agreement(candidates((0.1, 0.2, 0.9), (0.11, 0.5, 0.8), (0.9, 0.51, 0.1)))
    assert agreement == pytest.approx(
        {"proxy_fidelity": 1, "proxy_truth": -1, "fidelity_truth": -1}
    )


def test_the_rank_agreement_is_the_one_computed_by_hand() -> None:
    # ranks 1 2 3 4 and 2 1 4 3: rho = 1 - 6 (1 + 1 + 1 + 1) / (4 (16 - 1)) = 0.6
    agreement = rank_agreement(
        candidates((1, 0.2, None), (2, 0.1, None), (3, 0.4, None), (4, 0.3, None))
    )
    assert agreement == {
        "proxy_fidelity": pytest.approx(0.6), "proxy_truth": None, "fidelity_truth": None,
    }  # fmt: skip


def test_fewer_than_three_values_or_constant_values_have_no_rank_agreement() -> None:
    two = candidates((0.1, 0.2, 0.9), (0.2, 0.3, 0.8))
    assert set(rank_agreement(two).values()) == set(rank_agreement([]).values()) == {None}
    third = candidates((0.3, None, 0.7))
    assert rank_agreement(two + third)["proxy_truth"] == pytest.approx(-1)
    assert rank_agreement(two + third)["proxy_fidelity"] is None  # only two have a fidelity
    constant = rank_agreement(candidates((0.1, 0.5, 0.3), (0.2, 0.5, 0.2), (0.3, 0.5, 0.1)))
    assert constant["proxy_fidelity"] is constant["fidelity_truth"] is None
    assert constant["proxy_truth"] == pytest.approx(-1)


def test_the_shortlist_is_ranked_by_the_mean_of_the_measured_fidelities() -> None:
    fidelity: list[dict[str, float | None]] = [
        {"a": 0.2, "b": None}, {"a": 0.0, "b": 0.6}, {"a": 0.9, "b": 0.1}, {"a": None, "b": None},
    ]  # fmt: skip
    agreement = shortlist_rank_agreement([1, 2, 3, 4], fidelity)
    assert agreement == pytest.approx({"shortlist_proxy_fidelity": 1})
    assert shortlist_rank_agreement([1, 2, 3], [{"a": None}] * 3) == {
        "shortlist_proxy_fidelity": None
    }


def test_the_rank_agreement_is_described_in_one_line() -> None:
    agreement = rank_agreement(
        candidates((1, 0.2, None), (2, 0.1, None), (3, 0.4, None), (4, 0.3, None))
    )
    line = describe_rank_agreement(agreement)
    assert "proxy and fidelity 0.60, proxy and ground truth -, fidelity and ground truth -" in line
    extended = describe_rank_agreement(agreement | {"shortlist_proxy_fidelity": 0.904})
    assert "0.60 (shortlist 0.90), proxy and ground truth" in extended and "\n" not in extended
