"""The MACs of very many plans against those of the cost model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import LOW_RANK, ZooDeployment
from test_exact import SMALL, random_problem

from search.study.exact.macs_table import MacsTable
from search.study.exact.plan_table import PlanTable
from search.study.exact.segments import NO_SHARE
from search.study.objectives import PlanEvaluator
from search.study.problem import Problem
from spaces.plan import IDENTITY, LINEAR
from spaces.shares import enumerate_shares, find_pairs


def assert_equal_macs(problem: Problem, seed: int, count: int) -> None:
    """Assert that table and cost model agree on random plans."""
    problem = replace(problem, costs=("macs",))
    table, rng = PlanTable(problem), np.random.default_rng(seed)
    evaluator = PlanEvaluator(problem)
    chosen = np.array(
        [
            rng.choice([NO_SHARE, *table.shares_into(segment)], count)
            for segment in range(len(table.segments))
        ]
    )
    macs = MacsTable(problem, table).macs(chosen)
    for column in np.flatnonzero(table.evaluate(chosen).acyclic):
        (expected,) = evaluator.evaluate(table.plan(chosen[:, column])).costs
        assert macs[column] / 1e6 == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", SMALL)
def test_the_table_gives_the_macs_of_the_cost_model(seed: int) -> None:
    problem = random_problem(seed)
    assert_equal_macs(problem, seed, 60)
    rates = {name: 1.0 + 3.0 * ((k + seed) % 3) for k, name in enumerate(problem.layouts)}
    assert_equal_macs(replace(problem, rates=rates), seed, 60)


@pytest.mark.parametrize("rates", [{}, {"b0": 2.0, "v3": 5.0, "r50": 0.5, "det": 10.0}])
def test_the_table_gives_the_macs_of_real_networks(
    street: ZooDeployment, rates: dict[str, float]
) -> None:
    shares = enumerate_shares(
        find_pairs(street.facts).legal, street.facts, (IDENTITY, LINEAR, LOW_RANK)
    )
    assert_equal_macs(Problem(street.facts, dict.fromkeys(shares, 0.5), rates=rates), 1, 300)
