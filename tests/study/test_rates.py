"""Studies of models that have rates, on made-up deployments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import MadeUpDeployment

from search.study.exact.branch_and_bound import exact_front
from search.study.objectives import PlanEvaluator
from search.study.optimize import SETTINGS, StudySettings, join_study, run_study
from search.study.pareto import nondominated_indices
from search.study.problem import Problem
from search.study.storage import open_store
from spaces.cost import CostModel

MADE_UP = MadeUpDeployment({"a": 3, "det": 3}, {"det": (1, 2)})
RATES = {"a": 0.5, "det": 10.0}


def rated_problem(budget: float = 0.9) -> Problem:
    return replace(MADE_UP.problem(budget), costs=("bytes", "macs"), rates=RATES)


def test_rates_are_part_of_a_problem_only_if_they_are_given() -> None:
    rated = rated_problem()
    plain = replace(rated, rates={})
    assert rated.to_dict() == {**plain.to_dict(), "rates": RATES}
    hashes = {p.hash for p in (plain, rated, replace(rated, rates={"a": 0.5, "det": 9.0}))}
    assert len(hashes) == 3
    again = Problem.from_dict(json.loads(json.dumps(rated.to_dict())))
    assert again.rates == RATES and again.hash == rated.hash
    assert Problem.from_dict(plain.to_dict()).rates == {}


def test_the_front_of_an_exhausted_study_is_the_one_by_macs_per_second(tmp_path: Path) -> None:
    problem, costs = rated_problem(1.0), CostModel(MADE_UP.facts)
    settings = StudySettings("rated", str(tmp_path / "study.log"), "local", 10_000, 0)
    result = run_study(PlanEvaluator(problem), settings)
    assert result.exhausted
    points = [
        (plan.bytes / 1e6, costs.macs_per_second(plan.plan, RATES) / 1e6, -plan.proxy)
        for plan in result.evaluated
    ]
    front = sorted(points[i] for i in nondominated_indices(points))
    assert sorted(plan.objectives for plan in result.front) == front


def test_a_process_that_joins_a_study_reads_the_rates_from_its_store(tmp_path: Path) -> None:
    settings = StudySettings("rated", str(tmp_path / "study.log"), "local", 2, 0)
    problem = rated_problem()
    run_study(PlanEvaluator(problem), settings)
    storage = open_store(settings.store)
    (study_id,) = (study._study_id for study in storage.get_all_studies())
    stored = storage.get_study_user_attrs(study_id)[SETTINGS]
    storage.set_study_user_attr(study_id, SETTINGS, {**stored, "trials": 8})
    assert join_study(settings.store, settings.study_name(problem)) == 6
    continued = run_study(PlanEvaluator(problem), replace(settings, trials=8))
    costs = CostModel(MADE_UP.facts)
    assert continued.trials == 8
    for plan in continued.evaluated:
        assert plan.costs[1] == costs.macs_per_second(plan.plan, RATES) / 1e6


def test_the_exact_front_by_bytes_and_quality_does_not_depend_on_rates() -> None:
    problem = rated_problem()
    assert exact_front(problem).front == exact_front(MADE_UP.problem(0.9)).front


@pytest.mark.parametrize(("rates", "unit"), [({}, "M"), (RATES, "M/s")])
def test_the_unit_of_macs_depends_on_rates(rates: dict[str, float], unit: str) -> None:
    assert PlanEvaluator(replace(rated_problem(), rates=rates)).cost_units["macs"] == unit
