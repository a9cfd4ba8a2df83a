"""The league of guides: groups of shares, what each can tell, and who wins."""

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


def numbers(of: Callable[[Share], float]) -> dict[Share, float]:
    return {share: of(share) for share in SHARES}


def depth(stage: str) -> int:
    return int(stage[1:])


def noise(seed: int) -> dict[Share, float]:
    values = np.random.default_rng(seed).normal(size=len(SHARES))
    return dict(zip(SHARES, values.tolist(), strict=True))


ACCURACY = numbers(lambda s: math.exp(-abs(depth(s.donor.stage) - depth(s.recipient.stage))))


@given(st.lists(st.sampled_from(SHARES), unique=True))
def test_same_and_cross_stage_are_all_shares_each_once(shares: list[Share]) -> None:
    same, cross = same_stage(shares), cross_stage(shares)
    assert not set(same) & set(cross)
    assert sorted([*same, *cross]) == sorted(shares)
    assert all(share.donor.stage == share.recipient.stage for share in same)


@given(st.lists(st.sampled_from(SHARES), unique=True))
def test_recipient_stages_with_enough_donors_hold_all_their_shares(shares: list[Share]) -> None:
    groups = by_recipient(shares)
    for recipient in {share.recipient for share in shares}:
        into = [share for share in shares if share.recipient == recipient]
        donors = {share.donor for share in into}
        assert groups.get(recipient) == (into if len(donors) >= MIN_POINTS else None)


def test_each_group_is_its_members_alone() -> None:
    guide = noise(1)
    found = correlate_groups(guide, ACCURACY, 7)
    assert list(found) == list(SHARE_GROUPS)
    groups = {"all": list(SHARES), "same": same_stage(SHARES), "cross": cross_stage(SHARES)}
    for group, members in groups.items():
        x, y = (np.array([v[s] for s in members]) for v in (guide, ACCURACY))
        for name, coefficient in COEFFICIENTS.items():
            assert found[group][name] == compute_correlation(coefficient, x, y, 7)


def test_shares_without_accuracy_do_not_count() -> None:
    some = {share: kept for share, kept in ACCURACY.items() if share.recipient.model != "b"}
    guide = noise(2)
    spoilt = {s: v if s in some else 1e6 for s, v in guide.items()}
    assert correlate_groups(guide, some, 0) == correlate_groups(spoilt, some, 0)
    assert correlate_groups(guide, some, 0)["all"]["pearson"].count == len(some)


def test_depth_alone_explains_nothing_within_a_recipient_stage() -> None:
    """A guide that only knows the recipient's depth says much, but not which donor to take."""
    kept = numbers(lambda s: -depth(s.recipient.stage) + 0.1 * ACCURACY[s])
    deep = correlate_groups(numbers(lambda s: -depth(s.recipient.stage)), kept, 0)
    assert deep["all"]["pearson"].value is not None and deep["all"]["pearson"].value > 0.99
    assert deep["within"]["pearson"] == Correlation(None, None, None, 0)
    # and one whose scale is another at every depth is perfect where depth is the same
    drifting = numbers(lambda s: ACCURACY[s] + 10 * math.sin(3 * depth(s.recipient.stage)))
    found = correlate_groups(drifting, kept, 0)
    assert found["within"]["spearman"].value == pytest.approx(1)
    assert found["within"]["spearman"].count == len(by_recipient(SHARES))
    assert found["all"]["pearson"].value is not None and found["all"]["pearson"].value < 0.5


def table(**guides: dict[Share, float]) -> MetricTable:
    found: dict[str, Correlations] = {
        name: correlate_groups(guide, ACCURACY, 0) for name, guide in guides.items()
    }
    return MetricTable({"a": 9}, {"a": {"top1": 0.5, "top5": 0.9}}, {}, found)


def test_the_winner_has_the_greatest_correlation_of_either_sign() -> None:
    against = {share: -kept for share, kept in ACCURACY.items()}
    found = table(constant=dict.fromkeys(SHARES, 1.0), noise=noise(3), against=against)
    assert found.winner == "against"
    assert found.ranking == ["against", "noise", "constant"]


def test_where_nothing_is_defined_nobody_wins() -> None:
    found = table(one=dict.fromkeys(SHARES, 1.0), other=dict.fromkeys(SHARES, 2.0))
    assert found.winner is None and found.ranking == ["one", "other"]


def test_a_league_outlives_being_written_down() -> None:
    measured = table(constant=dict.fromkeys(SHARES, 1.0), noise=noise(3))
    league = MetricComparison(
        name="made-up", seed=0, adapters=["linear"], frames={"hash": "0", "count": 1},
        models={"a": "timm/x"}, shares={"all": len(SHARES)}, metrics={"noise": "noise"},
        metric_seconds={"noise": 0.1}, winner=measured.winner, deciding=measured,
        reporting=measured, settings={}, config={}, seconds={},
        created="2026-05-04T12:00:00+00:00", versions={},
    )  # fmt: skip
    written = json.dumps(dump_record(league), allow_nan=False)
    assert load_record(MetricComparison, written, "league.json") == league
