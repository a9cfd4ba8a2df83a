"""A search that does not fit into memory is refused with the setting that makes it fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tiny import shares_in

import search.statistics.observed
from search.metrics.fidelity import agreement_sums
from search.pipelines.deployment.memory import TooLittleMemory, check_memory, memory_need
from search.statistics.observed import Observed
from search.statistics.similarity import Statistics
from search.statistics.streaming import PassSettings
from search.utils.progress import silent
from spaces.adapters import LinearMap
from spaces.plan import Share

SETTINGS, COUNTS = PassSettings(batch=8), [400, 300]


def test_a_search_that_fits_says_what_it_needs(pair: Observed) -> None:
    need = memory_need(pair.deployment, SETTINGS, COUNTS).total
    assert f"{need / 1e6:.2f} MB" in check_memory(pair.deployment, SETTINGS, COUNTS, free=need)


def test_the_named_number_of_positions_is_the_largest_that_fits(pair: Observed) -> None:
    need = memory_need(pair.deployment, SETTINGS, COUNTS).total
    free = memory_need(pair.deployment, replace(SETTINGS, positions=9), COUNTS).total
    assert free < need
    with pytest.raises(TooLittleMemory, match=r"set statistics\.positions to (\d+)") as refused:
        check_memory(pair.deployment, SETTINGS, COUNTS, free)
    positions = int(re.findall(r"positions to (\d+)", str(refused.value))[0])
    assert positions >= 9
    check_memory(pair.deployment, replace(SETTINGS, positions=positions), COUNTS, free)
    with pytest.raises(TooLittleMemory):
        check_memory(pair.deployment, replace(SETTINGS, positions=positions + 1), COUNTS, free)


def test_without_such_a_setting_the_models_are_too_many(pair: Observed) -> None:
    with pytest.raises(TooLittleMemory, match="give fewer models"):
        check_memory(pair.deployment, SETTINGS, COUNTS, free=1000)


def test_shares_measured_some_at_a_time_give_the_same_values(
    pair: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = shares_in(pair)
    together = agreement_sums(pair, shares, range(8), silent)
    monkeypatch.setattr(search.statistics.observed, "MOST_MAP_BYTES", 40_000)
    assert len([*pair.with_maps(shares)]) > 2
    done: list[int] = []
    apart = agreement_sums(pair, shares, range(8), done.append)
    assert apart == pytest.approx(together, abs=1e-6)
    assert done == sorted(done) and done[-1] == 8


def test_maps_are_kept_for_shares_that_are_measured_again(
    pair: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = shares_in(pair)
    solved: list[Share] = []
    solve = Statistics.linear_maps

    def counted(statistics: Statistics, asked: Sequence[Share]) -> dict[Share, LinearMap]:
        solved.extend(asked)
        return solve(statistics, asked)

    expected = agreement_sums(pair, shares, range(8), silent)
    monkeypatch.setattr(Statistics, "linear_maps", counted)
    keeping = pair.keeping_maps()
    for some in (shares[::2], shares, shares[1::2]):
        measured = agreement_sums(keeping, some, range(8), silent)
        assert measured == pytest.approx({share: expected[share] for share in some}, abs=1e-6)
    assert sorted(solved) == sorted(shares)

    monkeypatch.setattr(search.statistics.observed, "MOST_KEPT_BYTES", 100)
    forgetting = pair.keeping_maps()
    for _ in range(2):
        agreement_sums(forgetting, shares, range(8), silent)
    assert sorted(solved) == sorted([*shares] * 3)
