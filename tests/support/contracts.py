"""Contract tests: each suite runs for every entry of a registry."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import optuna
import pytest
from optuna.trial import TrialState
from tiny import MadeUpDeployment, shares_in

from search.metrics.base import Metric
from search.statistics.observed import Observed
from search.study.claims import Claims
from search.study.objectives import EvaluatedPlan, LatencyUnavailable, PlanEvaluator
from search.study.optimize import NoSuchStudy, StudySettings, join_study, run_study
from search.study.pareto import nondominated_indices
from search.study.problem import Problem
from search.study.storage import open_store
from spaces.plan import IDENTITY, LINEAR, AdapterSpec, Share, SharePlan

ADAPTERS = (IDENTITY, LINEAR, AdapterSpec("linear", 2))
EPS = 1e-6


class MetricContract:
    """A metric gives every share a finite, reproducible similarity; 1 is the best."""

    metric: Metric

    def test_every_similarity_is_finite_and_at_most_one(
        self, pair: Observed, mixed: Observed
    ) -> None:
        for observed, step in ((pair, 1), (mixed, 7)):
            shares = shares_in(observed, *ADAPTERS)[::step]
            values = self.metric.similarities(observed, shares)
            assert list(values) == list(shares)
            assert all(math.isfinite(v) and v <= 1 + EPS for v in values.values())

    def test_similarities_differ_between_shares(self, pair: Observed) -> None:
        values = self.metric.similarities(pair, shares_in(pair))
        assert max(values.values()) - min(values.values()) > 0.3

    def test_similarities_are_reproducible(self, mixed: Observed) -> None:
        shares = shares_in(mixed)[::12]
        first, second = (self.metric.similarities(mixed, shares) for _ in range(2))
        assert first == second

    def test_a_similarity_does_not_depend_on_the_other_shares(self, pair: Observed) -> None:
        shares = shares_in(pair, *ADAPTERS)
        together = self.metric.similarities(pair, shares)
        for share in shares[::37]:
            single = self.metric.similarities(pair, [share])
            assert single == {share: pytest.approx(together[share], abs=1e-5)}

    def test_no_shares_have_no_similarities(self, pair: Observed) -> None:
        assert self.metric.similarities(pair, []) == {}

    def test_progress_counts_every_share_once(self, pair: Observed) -> None:
        shares: tuple[Share, ...] = shares_in(pair, *ADAPTERS)
        steps: list[int] = []
        self.metric.similarities(pair, shares, steps.append)
        assert sum(steps) == len(shares) and min(steps) >= 0

    def test_it_has_a_name_and_a_label(self) -> None:
        assert self.metric.name.isidentifier() and self.metric.label


class SimilarityContract(MetricContract):
    """A metric of representations recognises a copy."""

    def test_a_copy_of_the_recipient_has_similarity_one(self, copies: Observed) -> None:
        same = [s for s in shares_in(copies, IDENTITY) if s.donor.stage == s.recipient.stage]
        assert len(same) == 16
        values = self.metric.similarities(copies, same)
        assert list(values.values()) == [pytest.approx(1, abs=1e-5)] * len(same)


class StoreContract:
    """A store keeps evaluated plans, and any number of processes share the work through it.

    Each call of `open_store` stands for another process.
    """

    where: str
    """Path or URL of the store."""
    problem = MadeUpDeployment({"a": 3, "b": 2}).problem(0.8)

    def settings(self, trials: int, name: str = "made-up") -> StudySettings:
        return StudySettings(name, self.where, "local", trials, 0)

    def study(self, settings: StudySettings) -> optuna.Study:
        name = settings.study_name(self.problem)
        return optuna.load_study(study_name=name, storage=open_store(self.where))

    def claims(self, study: optuna.Study, process: str) -> Claims:
        """Return the claims of a process on another machine."""
        claims = Claims(study._storage, study._study_id)
        claims.process = f"elsewhere/{process}"
        return claims

    def test_the_next_process_continues_from_the_evaluated_plans(self) -> None:
        first = run_study(PlanEvaluator(self.problem), self.settings(10))
        steps: list[int] = []
        second = run_study(PlanEvaluator(self.problem), self.settings(14), (), steps.append)
        assert (first.trials, second.trials, steps[0], sum(steps)) == (10, 14, 10, 14)
        assert second.hypervolumes[:10] == first.hypervolumes
        assert second.feasible[: len(first.feasible)] == first.feasible

    def test_an_exhausted_space_has_every_plan_once_and_its_true_front(self) -> None:
        study = run_study(PlanEvaluator(self.problem), self.settings(1000))
        plans = every_plan(self.problem)
        assert study.exhausted and study.trials == len(plans)
        evaluator = PlanEvaluator(self.problem)
        within = [v for v in map(evaluator.evaluate, plans) if evaluator.is_feasible(v)]
        best = nondominated_indices([v.objectives for v in within])
        assert [v.objectives for v in study.front] == sorted(within[k].objectives for k in best)

    def test_two_studies_in_one_store_do_not_affect_each_other(self) -> None:
        undisturbed = run_study(PlanEvaluator(self.problem), self.settings(12, "one"))
        run_study(PlanEvaluator(self.problem), self.settings(20, "two"))
        assert run_study(PlanEvaluator(self.problem), self.settings(12, "one")) == undisturbed
        second = self.study(self.settings(0, "two"))
        assert len(second.trials) == 20
        assert run_study(PlanEvaluator(self.problem), self.settings(20, "one")).hypervolumes[
            :12
        ] == (undisturbed.hypervolumes)

    def test_at_most_one_of_two_processes_claims_a_plan(self) -> None:
        run_study(PlanEvaluator(self.problem), self.settings(1))
        first_study, second_study = self.study(self.settings(1)), self.study(self.settings(1))
        first_claims, second_claims = (
            self.claims(first_study, "1/0"),
            self.claims(second_study, "2/0"),
        )
        first_trial, second_trial = first_study.ask(), second_study.ask()
        assert first_claims.claim(first_trial, "plan")
        assert not second_claims.claim(second_trial, "plan")
        assert second_claims.claim(second_trial, "another")
        first_study.tell(first_trial, state=TrialState.FAIL)
        assert second_claims.claim(second_trial, "plan")  # a failed trial releases its plan
        second_study.tell(second_trial, (1.0, 1.0))
        assert not first_claims.claim(first_study.ask(), "plan")

    def test_the_plans_of_a_silent_process_are_released(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_study(PlanEvaluator(self.problem), self.settings(1))
        own_study, silent_study = self.study(self.settings(1)), self.study(self.settings(1))
        own, silent = self.claims(own_study, "1/0"), self.claims(silent_study, "2/0")
        assert silent.claim(silent_study.ask(), "plan")
        own.fail_dead_trials()
        monkeypatch.setattr("search.study.claims.GRACE_SECONDS", 0.0)
        own.fail_dead_trials()
        own.refresh()
        assert "plan" not in own

    def test_a_trial_that_another_process_failed_is_repeated(self) -> None:
        """A process that continues after a long pause evaluates each of its plans once."""
        store = self.settings(1).store

        class Slow(PlanEvaluator):
            def evaluate(self, plan: SharePlan) -> EvaluatedPlan:
                if (
                    not self._predicted
                ):  # at the first plan, another process fails the running trial
                    storage = open_store(store)
                    number = storage.get_all_studies()[0]._study_id
                    (trial,) = storage.get_all_trials(number, states=(TrialState.RUNNING,))
                    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                return super().evaluate(plan)

        study = run_study(Slow(self.problem), self.settings(8))
        states = [t.state for t in self.study(self.settings(8)).trials]
        assert study.trials == 8
        assert states == [TrialState.FAIL, *[TrialState.COMPLETE] * 8]

    def test_joining_an_unknown_or_foreign_study_is_refused(self) -> None:
        run_study(PlanEvaluator(self.problem), self.settings(1))
        optuna.create_study(study_name="foreign", storage=open_store(self.where))
        name = self.settings(1).study_name(self.problem)
        with pytest.raises(
            NoSuchStudy, match=f"study 'gone': not in this store, which holds .*{name}"
        ):
            join_study(self.where, "gone")
        with pytest.raises(NoSuchStudy, match="study 'foreign': merge-search did not create it"):
            join_study(self.where, "foreign")
        study = self.study(self.settings(1))
        study.set_user_attr("problem", {**study.user_attrs["problem"], "facts": {"a": 1}})
        with pytest.raises(NoSuchStudy, match="another version"):
            join_study(self.where, name)

    def test_workers_cannot_join_a_study_of_measured_latency(self) -> None:
        problem = replace(self.problem, costs=("latency",))
        run_study(PlanEvaluator(problem, lambda plan: 1.0), self.settings(3))
        name = self.settings(3).study_name(problem)
        with pytest.raises(LatencyUnavailable, match="cannot be joined"):
            join_study(self.where, name)
        study = optuna.load_study(study_name=name, storage=open_store(self.where))
        assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3


def every_plan(problem: Problem) -> list[SharePlan]:
    """Return every plan of the space once."""
    slots = problem.space.slots
    names = [slot.name for slot in slots]
    combinations = product(*(slot.choices for slot in slots))
    plans = (problem.space.decode(dict(zip(names, keys, strict=True))) for keys in combinations)
    return list(dict.fromkeys(plans))
