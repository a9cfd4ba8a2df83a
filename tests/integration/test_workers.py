"""Processes that work on one study evaluate every plan once, also if one of them is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import optuna
import psutil
import pytest
from commands import (
    FORKED,
    Command,
    StartCommand,
    assert_fails_in_one_sentence,
    wait_until,
)
from contracts import every_plan
from optuna.storages import BaseStorage
from stored_trials import (
    SPACE,
    claimed_plans,
    complete_trials,
    interrupted_study,
    plans_of,
    trial_count,
)
from tiny import MadeUpDeployment

from search.study.claims import Claims
from search.study.objectives import PlanEvaluator
from search.study.optimize import StudyResult, StudySettings, run_study
from search.study.pareto import nondominated_indices
from search.study.problem import Problem
from search.study.samplers import SpaceStatus, UniquePlanSampler, make_sampler
from search.study.storage import open_store

LARGER = MadeUpDeployment({"a": 5, "b": 5})


def evaluation_count(worker: Command) -> int:
    """Return how many plans a worker reports that it has evaluated."""
    (count,) = re.findall(r"(\d+) plans evaluated by this worker", worker.output)
    return int(count)


def search_alone(problem: Problem, store: str) -> StudyResult:
    """Search with this process until a space is exhausted, or read the result of such a search."""
    settings = StudySettings("made-up", store, "local", 10_000, 0)
    return run_study(PlanEvaluator(problem), settings)


def true_front(problem: Problem) -> set[tuple[float, ...]]:
    evaluator = PlanEvaluator(problem)
    feasible = [
        v for v in map(evaluator.evaluate, every_plan(problem)) if evaluator.is_feasible(v)
    ]
    front = nondominated_indices([v.objectives for v in feasible])
    return {feasible[k].objectives for k in front}


def kill_during_a_trial(victim: Command, storage: BaseStorage, study: str) -> str:
    """Kill a worker while the store says that it evaluates a plan; return the plan."""
    process = psutil.Process(victim.pid)

    def claims() -> list[str]:
        return claimed_plans(storage, study, f"/{victim.pid}/")

    while True:
        wait_until(lambda: bool(claims()) or not victim.is_running)
        assert victim.is_running, victim.output
        victim.send(signal.SIGSTOP)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        if plans := claims():  # the trial may have ended before the process stopped
            assert victim.kill()
            return plans[0]
        victim.send(signal.SIGCONT)


def test_two_runs_of_one_config_at_the_same_time_share_the_work(
    start: StartCommand, search_config: Path, tmp_path: Path
) -> None:
    runs = [start("run", search_config, "--set", "search.trials=80") for _ in range(2)]
    assert [run.exit_code() for run in runs] == [0, 0], [run.output for run in runs]
    out = tmp_path / "out" / "tiny"
    plans = plans_of(complete_trials(open_store(str(out / "study.log"))), runs[0].study)
    assert len(plans) == len(set(plans)) == trial_count(out) == 80


@pytest.mark.durability
def test_four_workers_evaluate_every_plan_once_although_one_is_killed_during_a_trial(
    store: str, start: StartCommand, tmp_path: Path
) -> None:
    problem = LARGER.problem(0.8)
    study = interrupted_study(problem, store, 10_000)
    together = FORKED.Barrier(4).wait
    victim, *survivors = [start("worker", store, study, prepare=together) for _ in range(4)]
    storage = open_store(store)
    plan = kill_during_a_trial(victim, storage, study)
    assert [w.exit_code() for w in survivors] == [0, 0, 0], [w.output for w in survivors]
    plans = plans_of(complete_trials(storage), study)
    assert sorted(plans) == sorted(p.hash for p in every_plan(problem))
    assert plan in plans and not claimed_plans(storage, study)
    counts = [evaluation_count(worker) for worker in survivors]
    assert sum(count > 0 for count in counts) > 1 and sum(counts) < len(plans)
    front = {v.objectives for v in search_alone(problem, store).front}
    alone = search_alone(problem, str(tmp_path / "alone.log"))
    assert front == {v.objectives for v in alone.front} == true_front(problem)


def test_workers_together_stop_at_exactly_the_requested_trials(
    store: str, start: StartCommand
) -> None:
    study = interrupted_study(SPACE.problem(0.8), store, 40)
    workers = [start("worker", store, study) for _ in range(4)]
    assert [worker.exit_code() for worker in workers] == [0] * 4, [w.output for w in workers]
    plans = plans_of(complete_trials(open_store(store)), study)
    assert len(plans) == len(set(plans)) == 40
    assert sum(evaluation_count(worker) for worker in workers) == 39


def test_many_workers_open_a_new_database_at_once(database: str, start: StartCommand) -> None:
    together = FORKED.Barrier(5).wait
    workers = [start("worker", database, "anything", prepare=together) for _ in range(5)]
    for worker in workers:
        line = assert_fails_in_one_sentence(worker)
        assert "study 'anything': not in this store, which holds none" in line


def test_a_process_that_ended_or_stands_still_holds_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a zombie holds none; and setting the machine's clock ends no process."""
    storage = open_store(str(tmp_path / "trials.log"))
    study = optuna.create_study(storage=storage, directions=["minimize"])
    own = Claims(storage, study._study_id)
    children = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
    ended, stopped, alive = (_claims_of_process(study, child.pid) for child in children)
    children[0].kill()
    children[1].send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(children[0].pid).status() == psutil.STATUS_ZOMBIE)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1.0, raising=False)
    own.fail_dead_trials()
    own.refresh()
    assert ended.process not in own and stopped.process in own and alive.process in own
    storage.set_study_user_attr(study._study_id, alive.process, 1)  # a heartbeat
    monkeypatch.setattr("search.study.claims.GRACE_SECONDS", 0.0)
    own.fail_dead_trials()
    own.refresh()
    assert stopped.process not in own and alive.process in own
    for child in children:
        child.kill()
        child.wait()


def _claims_of_process(study: optuna.Study, pid: int) -> Claims:
    """Return the claims of another process, which claims a plan with its own name as the hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        claims = Claims(study._storage, study._study_id)
    assert claims.claim(study.ask(), claims.process)
    return claims


def test_a_plan_that_was_claimed_during_the_enumeration_is_not_forgotten(tmp_path: Path) -> None:
    problem = MadeUpDeployment({"a": 2, "b": 2}).problem(0.8)
    storage = open_store(str(tmp_path / "trials.log"))
    study = optuna.create_study(storage=storage, directions=["minimize", "maximize"])
    claims = Claims(storage, study._study_id)
    inner = make_sampler("random", problem, 0)
    sampler = UniquePlanSampler(inner, problem.space, claims, (), 0)

    def next_plan() -> tuple[str, SpaceStatus]:
        return problem.space.decode(sampler._next_by_enumeration()).hash, sampler.status

    released = next_plan()[0]  # this process could have had the plan, and gave way to another
    claims.evaluated = {plan.hash for plan in every_plan(problem)} - {released}
    assert next_plan() == (released, "fresh")
    claims.running = {released: {7}}
    assert next_plan()[1] == "claimed"
    claims.evaluated, claims.running = {*claims.evaluated, released}, {}
    assert next_plan()[1] == "exhausted"
