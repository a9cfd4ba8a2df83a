"""What everything of a kind must do; each suite is run for every entry of its registry."""

from __future__ import annotations

import math

import pytest
from tiny import shares_in

from search.metric import Metric
from search.observed import Observed
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Share

ADAPTERS = (IDENTITY, LINEAR, AdapterSpec("linear", 2))
EPS = 1e-6


class MetricContract:
    """A metric gives every share a finite number: 1 is best, and the same each time."""

    metric: Metric

    def test_every_share_gets_a_finite_number_of_at_most_one(
        self, pair: Observed, mixed: Observed
    ) -> None:
        for observed, step in ((pair, 1), (mixed, 7)):
            shares = shares_in(observed, *ADAPTERS)[::step]
            values = self.metric.similarities(observed, shares)
            assert list(values) == list(shares)
            assert all(math.isfinite(v) and v <= 1 + EPS for v in values.values())

    def test_not_every_share_is_worth_the_same(self, pair: Observed) -> None:
        values = self.metric.similarities(pair, shares_in(pair))
        assert max(values.values()) - min(values.values()) > 0.3

    def test_the_numbers_are_the_same_each_time(self, mixed: Observed) -> None:
        shares = shares_in(mixed)[::12]
        once, twice = (self.metric.similarities(mixed, shares) for _ in range(2))
        assert once == twice

    def test_a_number_does_not_depend_on_the_other_shares(self, pair: Observed) -> None:
        shares = shares_in(pair, *ADAPTERS)
        together = self.metric.similarities(pair, shares)
        for share in shares[::37]:
            alone = self.metric.similarities(pair, [share])
            assert alone == {share: pytest.approx(together[share], abs=1e-5)}

    def test_no_shares_get_no_numbers(self, pair: Observed) -> None:
        assert self.metric.similarities(pair, []) == {}

    def test_progress_hears_of_every_share_once(self, pair: Observed) -> None:
        shares: tuple[Share, ...] = shares_in(pair, *ADAPTERS)
        told: list[int] = []
        self.metric.similarities(pair, shares, told.append)
        assert sum(told) == len(shares) and min(told) >= 0

    def test_it_has_a_name_and_a_label(self) -> None:
        assert self.metric.name.isidentifier() and self.metric.label


class SimilarityContract(MetricContract):
    """A metric that looks at the representations knows a copy when it sees one."""

    def test_a_copy_of_the_recipient_is_worth_one(self, copies: Observed) -> None:
        same = [s for s in shares_in(copies, IDENTITY) if s.donor.stage == s.recipient.stage]
        assert len(same) == 16
        values = self.metric.similarities(copies, same)
        assert list(values.values()) == [pytest.approx(1, abs=1e-5)] * len(same)
