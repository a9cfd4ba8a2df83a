"""The metric comparison: groups of shares, the correlations of each, and the winner."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import made_up_facts

from search.evaluation.correlation import (
    COEFFICIENTS,
    MIN_POINTS,
    Correlation,
    compute_correlation,
)
from search.results.metric_comparison import (
    SHARE_GROUPS,
    Correlations,
    MetricComparison,
    MetricTable,
    by_recipient,
    correlate_groups,
    cross_stage,
    same_stage,
)
from search.utils.records import dump_record, load_record
from spaces.plan import IDENTITY, LINEAR, Share
from spaces.shares import enumerate_shares, find_pairs

FACTS = made_up_facts({"a": 5, "b": 6, "c": 4}, {})
SHARES = enumerate_shares(find_pairs(FACTS).legal, FACTS, (LINEAR, IDENTITY))


def values_of(value: Callable[[Share], float]) -> dict[Share, float]:
    return {share: value(share) for share in SHARES}


def depth(stage: str) -> int:
    return int(stage[1:])


def noise(seed: int) -> dict[Share, float]:
    values = np.random.default_rng(seed).normal(size=len(SHARES))
    return dict(zip(SHARES, values.tolist(), strict=True))


ACCURACY = values_of(lambda s: math.exp(-abs(depth(s.donor.stage) - depth(s.recipient.stage))))


@given(st.lists(st.sampled_from(SHARES), unique=True))
def test_same_and_cross_stage_are_all_shares_each_once(shares: list[Share]) -> None:
    same, cross = same_stage(shares), cross_stage(shares)
    assert not set(same) & set(cross)
    assert sorted([*same, *cross]) == sorted(shares)
    assert all(share.donor.stage == share.recipient.stage for share in same)


@given(st.lists(st.sampled_from(SHARES), unique=True))
def test_a_recipient_stage_with_enough_donors_has_all_its_shares(shares: list[Share]) -> None:
    groups = by_recipient(shares)
    for recipient in {share.recipient for share in shares}:
        into = [share for share in shares if share.recipient == recipient]
        donors = {share.donor for share in into}
        assert groups.get(recipient) == (into if len(donors) >= MIN_POINTS else None)


def test_the_correlations_of_a_group_use_its_members_alone() -> None:
    metric = noise(1)
    correlations = correlate_groups(metric, ACCURACY, 7)
    assert list(correlations) == list(SHARE_GROUPS)
    groups = {"all": list(SHARES), "same": same_stage(SHARES), "cross": cross_stage(SHARES)}
    for group, members in groups.items():
        x, y = (np.array([v[s] for s in members]) for v in (metric, ACCURACY))
        for name, coefficient in COEFFICIENTS.items():
            assert correlations[group][name] == compute_correlation(coefficient, x, y, 7)


def test_shares_without_accuracy_do_not_count() -> None:
    labelled = {
        share: accuracy for share, accuracy in ACCURACY.items() if share.recipient.model != "b"
    }
    metric = noise(2)
    altered = {s: v if s in labelled else 1e6 for s, v in metric.items()}
    assert correlate_groups(metric, labelled, 0) == correlate_groups(altered, labelled, 0)
    assert correlate_groups(metric, labelled, 0)["all"]["pearson"].count == len(labelled)


def test_depth_alone_explains_nothing_within_a_recipient_stage() -> None:
    """A metric of the recipient's depth correlates, but does not say which donor is best."""
    accuracy = values_of(lambda s: -depth(s.recipient.stage) + 0.1 * ACCURACY[s])
    by_depth = correlate_groups(values_of(lambda s: -depth(s.recipient.stage)), accuracy, 0)
    assert by_depth["all"]["pearson"].value is not None and by_depth["all"]["pearson"].value > 0.99
    assert by_depth["within"]["pearson"] == Correlation(None, None, None, 0)
    # A metric whose scale differs between depths is perfect within each depth.
    drifting = values_of(lambda s: ACCURACY[s] + 10 * math.sin(3 * depth(s.recipient.stage)))
    correlations = correlate_groups(drifting, accuracy, 0)
    assert correlations["within"]["spearman"].value == pytest.approx(1)
    assert correlations["within"]["spearman"].count == len(by_recipient(SHARES))
    assert (
        correlations["all"]["pearson"].value is not None
        and correlations["all"]["pearson"].value < 0.5
    )


def table(**metrics: dict[Share, float]) -> MetricTable:
    correlations: dict[str, Correlations] = {
        name: correlate_groups(values, ACCURACY, 0) for name, values in metrics.items()
    }
    return MetricTable({"a": 9}, {"a": {"top1": 0.5, "top5": 0.9}}, {}, correlations)


def test_the_winner_has_the_greatest_correlation_of_either_sign() -> None:
    opposite = {share: -accuracy for share, accuracy in ACCURACY.items()}
    measured = table(constant=dict.fromkeys(SHARES, 1.0), noise=noise(3), opposite=opposite)
    assert measured.winner == "opposite"
    assert measured.ranking == ["opposite", "noise", "constant"]


def test_without_a_defined_correlation_no_metric_wins() -> None:
    measured = table(one=dict.fromkeys(SHARES, 1.0), other=dict.fromkeys(SHARES, 2.0))
    assert measured.winner is None and measured.ranking == ["one", "other"]


def test_a_metric_comparison_comes_back_equal_from_its_file() -> None:
    measured = table(constant=dict.fromkeys(SHARES, 1.0), noise=noise(3))
    comparison = MetricComparison(
        name="made-up", seed=0, adapters=["linear"], frames={"hash": "0", "count": 1},
        models={"a": "timm/x"}, shares={"all": len(SHARES)}, metrics={"noise": "noise"},
        metric_seconds={"noise": 0.1}, winner=measured.winner, deciding=measured,
        reporting=measured, settings={}, config={}, seconds={},
        created="2026-05-04T12:00:00+00:00", versions={},
    )  # fmt: skip
    text = json.dumps(dump_record(comparison), allow_nan=False)
    assert load_record(MetricComparison, text, "league.json") == comparison
