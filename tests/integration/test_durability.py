"""Killed, stopped, cut off, out of disk, without its database: nothing that was valued is lost.

Real processes, real signals, a real PostgreSQL server, and failures that come from the kernel.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from click.testing import CliRunner
from commands import (
    FORKED,
    Command,
    StartCommand,
    assert_fails_in_one_sentence,
    drop_root_capabilities,
    limit_file_size,
    no_preparation,
    run_to_end,
    wait_until,
)
from contracts import StoreContract, every_plan
from mlflow.tracking import MlflowClient
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from postgres import PASSWORD, Postgres
from servers import free_port
from sqlalchemy.exc import SQLAlchemyError
from tiny import MadeUpDeployment, Weights, config_data, with_changes, write_config

from search.cli.main import main
from search.results.documents import content_id
from search.results.search_result import Result
from search.study.claims import Claims
from search.study.objectives import PlanEvaluator
from search.study.optimize import StudyResult, StudySettings, join_study, run_study
from search.study.pareto import nondominated_indices
from search.study.problem import Problem
from search.study.samplers import SpaceStatus, UniquePlanSampler, make_sampler
from search.study.storage import DamagedStudy, StoreFailed, open_store, translated_errors
from search.tracking.run_writer import PARENT_TAG, RESULT_TAG
from search.utils.records import load_record

TRIALS = 600
BYTES_OF_A_TRIAL = 3500  # about, in a journal
SPACE = MadeUpDeployment({"a": 4, "b": 4})
LARGER = MadeUpDeployment({"a": 5, "b": 5})
ENDLESS = MadeUpDeployment({"a": 12, "b": 12})
WHOLE_DISK = 1 << 24


@pytest.fixture(scope="session")
def data(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config whose statistics are known, and whose MLflow store has been made."""
    shared = tmp_path_factory.mktemp("shared")
    data = with_changes(config_data(weights), {
        "truth": {},
        "cache": str(shared / "cache"),
        "mlflow.tracking_uri": f"sqlite:///{shared / 'mlflow.db'}",
        "search.trials": 12,
        "verify.shortlist": 3,
        "verify.candidates": 2,
    })  # fmt: skip
    first = Command(shared / "output", ("run", str(write_config(shared, data))), no_preparation)
    assert first.exit_code() == 0, first.output
    return data


@pytest.fixture
def config(data: dict[str, Any], tmp_path: Path) -> Path:
    return write_config(tmp_path, data)


@pytest.fixture(params=["journal", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where trials are kept: both kinds."""
    if request.param == "journal":
        return str(tmp_path / "trials.log")
    return str(request.getfixturevalue("database"))


@pytest.mark.parametrize("store", ["journal", "postgresql"], indirect=True)
class TestEveryStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _pick(self, store: str) -> None:
        self.where = store


def trials(storage: BaseStorage, study: str) -> list[FrozenTrial]:
    return storage.get_all_trials(storage.get_study_id_from_name(study), deepcopy=False)


Known = dict[tuple[str, int], tuple[str, dict[str, Any], list[float]]]


def complete(storage: BaseStorage) -> Known:
    """All that was valued, of all studies: plan, parameters and values of each trial."""
    return {
        (name, trial.number): (trial.user_attrs["claim"][0], trial.params, trial.values)
        for name in optuna.get_all_study_names(storage)
        for trial in trials(storage, name)
        if trial.state == TrialState.COMPLETE
    }


def plans_of(known: Known, study: str) -> list[str]:
    return [plan for (name, _), (plan, _, _) in known.items() if name == study]


def claimed(storage: BaseStorage, study: str, process: str = "") -> list[str]:
    """The plans that running trials claim."""
    claims = [t.user_attrs.get("claim") for t in trials(storage, study)
              if t.state == TrialState.RUNNING]  # fmt: skip
    return [claim[0] for claim in claims if claim and process in claim[1]]


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def trials_in(out: Path) -> int:
    count: int = json.loads((out / "result.json").read_text())["study"]["trials"]
    return count


# Killed.


def _anywhere(command: Command, journal: Path, chance: random.Random) -> None:
    time.sleep(chance.uniform(0, 0.7))


def _between_trials(command: Command, journal: Path, chance: random.Random) -> None:
    enough = size(journal) + chance.uniform(1, 20) * BYTES_OF_A_TRIAL
    wait_until(lambda: size(journal) >= enough or not command.is_running)


def _after_the_search(command: Command, journal: Path, chance: random.Random) -> None:
    wait_until(lambda: "plans evaluated" in command.output or not command.is_running)
    time.sleep(chance.uniform(0, 2))


# Where a fast machine may do all that is left comes after where the trials done are counted.
MOMENTS = [*[_between_trials] * 13, *[_anywhere] * 3, *[_after_the_search] * 4]


@pytest.mark.durability
def test_a_search_killed_at_twenty_moments_loses_nothing(
    start: StartCommand, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "tiny"
    run_to_end(start, config, "--set", "budget=100%")
    old, journal, chance = (out / "result.json").read_bytes(), out / "study.log", random.Random(20)
    storage = open_store(str(journal))
    known, hits, grown = complete(storage), 0, 0
    for moment in MOMENTS:
        command = start("run", config, "--set", f"search.trials={TRIALS}")
        moment(command, journal, chance)
        hits += command.kill()
        now = complete(storage)
        assert known.items() <= now.items()
        grown += 12 + TRIALS > len(now) > len(known)
        known = now
        assert is_whole(out / "result.json", old)
    assert hits >= 18 and grown >= 10
    last = run_to_end(start, config, "--set", f"search.trials={TRIALS}")
    again = complete(open_store(str(journal)))
    plans = plans_of(again, last.study)
    assert known.items() <= again.items()
    assert len(plans) == len(set(plans)) == TRIALS == trials_in(out)
    assert not claimed(storage, last.study)
    assert start("sync", out).exit_code() == 0
    assert logged_once(out / "result.json", config) and not (out / "unlogged").exists()


def is_whole(path: Path, old: bytes) -> bool:
    """It is the old result, or all of the new one."""
    found = path.read_bytes()
    return found == old or load_record(Result, found, "found").study["trials"] == TRIALS


def logged_once(result: Path, config: Path) -> bool:
    """MLflow has one parent of that result; it is finished, and so are its children."""
    uri = f"sqlite:///{config.read_text().partition('sqlite:///')[2].split()[0]}"
    client = MlflowClient(tracking_uri=uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    wanted = content_id(result.read_bytes())
    mine = client.search_runs(experiments, f"tags.`{RESULT_TAG}` = '{wanted}'")
    parents = [run for run in mine if PARENT_TAG not in run.data.tags]
    assert {run.info.status for run in mine} == {"FINISHED"}
    return len(parents) == 1


def test_two_runs_of_one_config_at_the_same_time_share_the_work(
    start: StartCommand, config: Path, tmp_path: Path
) -> None:
    both = [start("run", config, "--set", "search.trials=80") for _ in range(2)]
    assert [command.exit_code() for command in both] == [0, 0], [c.output for c in both]
    out = tmp_path / "out" / "tiny"
    plans = plans_of(complete(open_store(str(out / "study.log"))), both[0].study)
    assert len(plans) == len(set(plans)) == trials_in(out) == 80


def test_a_tracking_store_whose_making_was_killed_is_made_by_one_of_two_runs(
    start: StartCommand, data: dict[str, Any], tmp_path: Path
) -> None:
    store = tmp_path / "new.db"
    uri = {"mlflow.tracking_uri": f"sqlite:///{store}"}
    config = write_config(tmp_path, with_changes(data, uri))
    command = start("run", config)
    wait_until(lambda: any(size(part) > 0 for part in tmp_path.glob(".new.db.*.part")))
    assert command.kill() and not store.exists()
    both = [start("run", config) for _ in range(2)]
    assert [command.exit_code() for command in both] == [0, 0], [c.output for c in both]
    assert logged_once(tmp_path / "out" / "tiny" / "result.json", config)


# Workers.


class _Enough(Exception):
    """A way to interrupt a search."""


def begun(problem: Problem, store: str, trials: int) -> str:
    """The name of a study that was interrupted after its first trial."""

    def stop(done: int) -> None:
        if done:
            raise _Enough

    settings = StudySettings("made-up", store, "local", trials, 0)
    with pytest.raises(_Enough):
        run_study(PlanEvaluator(problem), settings, (), stop)
    return settings.study_name(problem)


def valued_by(worker: Command) -> int:
    """How many plans a worker says that it has valued."""
    (count,) = re.findall(r"(\d+) plans evaluated by this worker", worker.output)
    return int(count)


def alone(problem: Problem, folder: Path) -> StudyResult:
    """What one process finds that looks at everything."""
    settings = StudySettings("made-up", str(folder / "alone.log"), "local", 10_000, 0)
    return run_study(PlanEvaluator(problem), settings)


def kill_during_a_trial(victim: Command, storage: BaseStorage, study: str) -> str:
    """Stop it at random moments until the store says that it is valuing a plan; that plan."""
    chance, process = random.Random(4), psutil.Process(victim.pid)
    while True:
        time.sleep(chance.uniform(0, 0.05))
        assert victim.is_running, victim.output
        victim.send(signal.SIGSTOP)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        plans = claimed(storage, study, f"/{victim.pid}/")
        if plans:
            assert victim.kill()
            return plans[0]
        victim.send(signal.SIGCONT)


@pytest.mark.durability
def test_of_four_workers_one_is_killed_during_a_trial_and_every_plan_is_valued_once(
    store: str, start: StartCommand, tmp_path: Path
) -> None:
    problem = LARGER.problem(0.8)
    study = begun(problem, store, 10_000)
    together = FORKED.Barrier(4).wait
    victim, *others = [start("worker", store, study, prepare=together) for _ in range(4)]
    storage = open_store(store)
    plan = kill_during_a_trial(victim, storage, study)
    assert [worker.exit_code() for worker in others] == [0, 0, 0], [w.output for w in others]
    plans = plans_of(complete(storage), study)
    assert sorted(plans) == sorted(p.hash for p in every_plan(problem))
    assert plan in plans and not claimed(storage, study)
    counts = [valued_by(worker) for worker in others]
    assert sum(count > 0 for count in counts) > 1 and sum(counts) < len(plans)
    found = run_study(PlanEvaluator(problem), StudySettings("made-up", store, "local", 10_000, 0))
    assert {v.objectives for v in found.front} == {
        v.objectives for v in alone(problem, tmp_path).front
    }
    assert {v.objectives for v in found.front} == true_front(problem)


def true_front(problem: Problem) -> set[tuple[float, ...]]:
    evaluator = PlanEvaluator(problem)
    valued = [v for v in map(evaluator.evaluate, every_plan(problem)) if evaluator.is_feasible(v)]
    return {valued[k].objectives for k in nondominated_indices([v.objectives for v in valued])}


def test_workers_together_stop_at_exactly_what_is_wanted(store: str, start: StartCommand) -> None:
    study = begun(SPACE.problem(0.8), store, 40)
    workers = [start("worker", store, study) for _ in range(4)]
    assert [worker.exit_code() for worker in workers] == [0] * 4, [w.output for w in workers]
    plans = plans_of(complete(open_store(store)), study)
    assert len(plans) == len(set(plans)) == 40
    assert sum(valued_by(worker) for worker in workers) == 39


def test_many_may_open_a_new_database_at_once(database: str, start: StartCommand) -> None:
    together = FORKED.Barrier(5).wait
    workers = [start("worker", database, "anything", prepare=together) for _ in range(5)]
    for worker in workers:
        assert (
            "study 'anything': not in this store, which holds none"
            in assert_fails_in_one_sentence(worker)
        )


def test_a_process_that_ended_or_stands_still_holds_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that nobody has waited for; and putting the clock right ends no process."""
    storage = open_store(str(tmp_path / "trials.log"))
    study = optuna.create_study(storage=storage, directions=["minimize"])
    mine = Claims(storage, study._study_id)
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    ended, stopped, alive = (_claiming(study, child.pid) for child in children)
    children[0].kill()
    children[1].send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(children[0].pid).status() == psutil.STATUS_ZOMBIE)
    monkeypatch.setattr("search.study.claims.GRACE_SECONDS", 0.05)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1.0, raising=False)
    mine.fail_dead_trials()
    mine.refresh()
    assert ended.process not in mine and stopped.process in mine and alive.process in mine
    storage.set_study_user_attr(study._study_id, alive.process, 1)
    time.sleep(0.1)
    mine.fail_dead_trials()
    mine.refresh()
    assert stopped.process not in mine and alive.process in mine
    for child in children:
        child.kill()
        child.wait()


def _claiming(study: optuna.Study, pid: int) -> Claims:
    """Those of another process, which claims the plan that is called like itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        claims = Claims(study._storage, study._study_id)
    assert claims.claim(study.ask(), claims.process)
    return claims


def test_what_was_claimed_when_the_walk_came_past_is_not_forgotten(tmp_path: Path) -> None:
    problem = MadeUpDeployment({"a": 2, "b": 2}).problem(0.8)
    storage = open_store(str(tmp_path / "trials.log"))
    study = optuna.create_study(storage=storage, directions=["minimize", "maximize"])
    claims = Claims(storage, study._study_id)
    inner = make_sampler("random", problem, 0)
    fresh = UniquePlanSampler(inner, problem.space, claims, (), 0)

    def walked() -> tuple[str, SpaceStatus]:
        return problem.space.decode(fresh._next_by_enumeration()).hash, fresh.status

    lost = walked()[0]  # it was ours to take, and we gave way
    claims.evaluated = {plan.hash for plan in every_plan(problem)} - {lost}
    assert walked() == (lost, "fresh")
    claims.running = {lost: {7}}
    assert walked()[1] == "claimed"
    claims.evaluated, claims.running = {*claims.evaluated, lost}, {}
    assert walked()[1] == "exhausted"


# The database.


def refused(*arguments: str) -> str:
    """The one sentence with which a command ends that cannot do what it is asked for."""
    answer = CliRunner().invoke(main, arguments)
    (line,) = answer.stderr.splitlines()
    assert answer.exit_code == 1 and isinstance(answer.exception, SystemExit)
    assert line.startswith("merge-search: ") and PASSWORD not in answer.output
    return line


def test_a_database_that_does_not_let_us_in_is_named_without_its_password(
    postgres: Postgres,
) -> None:
    wrong = refused("worker", postgres.url("postgres", f"{PASSWORD}!"), "study")
    assert "password authentication failed" in wrong and "storage postgresql://127" in wrong
    assert '"nowhere" does not exist' in refused("worker", postgres.url("nowhere"), "study")
    port = free_port()
    away = f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/db"
    assert "Connection refused" in refused("worker", away, "study")
    unreadable = f"postgresql://me:{PASSWORD}@127.0.0.1:port/db"
    assert "%2F" in refused("worker", unreadable, "study")


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        url = f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/db?connect_timeout=2"
        assert "timeout expired" in refused("worker", url, "study")


def test_a_failure_that_is_not_the_databases_shows_no_password_either(database: str) -> None:
    def gone(done: int) -> None:
        raise BrokenPipeError("nobody reads on")

    settings = StudySettings("made-up", database, "local", 3, 0)
    with pytest.raises(StoreFailed) as caught:
        run_study(PlanEvaluator(SPACE.problem(0.8)), settings, (), gone)
    assert PASSWORD not in str(caught.value)


def test_a_stop_while_the_database_answers_is_a_stop() -> None:
    with pytest.raises(KeyboardInterrupt), translated_errors("postgresql://there"):
        try:
            raise KeyboardInterrupt
        finally:
            raise SQLAlchemyError("connection in transaction status ACTIVE")


def test_a_run_on_a_database_leaves_its_password_nowhere(
    start: StartCommand, config: Path, tmp_path: Path, database: str
) -> None:
    command = run_to_end(start, config, "--set", f"storage={database}")
    plans = plans_of(complete(open_store(database)), command.study)
    assert len(plans) == len(set(plans)) == 12
    assert not (tmp_path / "out" / "tiny" / "study.log").exists()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "out" / "tiny" / "result.json" in written
    for path in written:  # what it told is among them
        assert PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.durability
def test_a_search_whose_database_dies_goes_on_when_it_is_back(
    start: StartCommand, config: Path, tmp_path: Path, postgres: Postgres, database: str
) -> None:
    arguments = (config, "--set", f"storage={database}", "--set", "search.trials=200")
    command, storage = start("run", *arguments), open_store(database)
    wait_until(lambda: "merge-search worker" in command.output)
    wait_until(lambda: len(storage.get_all_studies()) == 1 and len(complete(storage)) > 8)
    worker = start("worker", database, command.study)
    known = complete(storage)
    wait_until(lambda: len(complete(storage)) > len(known) + 8)
    known = complete(storage)
    postgres.kill()
    for one in (command, worker):
        line = assert_fails_in_one_sentence(one)
        assert "the database failed (" in line and "run the same command again to continue" in line
        assert PASSWORD not in one.output
    assert not (tmp_path / "out" / "tiny" / "result.json").exists()
    postgres.start()
    run_to_end(start, *arguments)
    now = complete(open_store(database))
    assert known.items() <= now.items()
    plans = plans_of(now, command.study)
    assert len(plans) == len(set(plans)) == 200 == trials_in(tmp_path / "out" / "tiny")


# The disk.


def goes_on(
    start: StartCommand, config: Path, journal: Path, known: Known, *arguments: str
) -> None:
    """After a failure all of it is there, and the same command ends with what was asked for."""
    last = run_to_end(start, config, *arguments)
    now = complete(open_store(str(journal)))
    assert known.items() <= now.items()
    plans = plans_of(now, last.study)
    assert len(plans) == len(set(plans)) == trials_in(config.parent / "out" / "tiny")


def test_a_journal_that_cannot_grow_keeps_whole_lines(
    start: StartCommand, config: Path, tmp_path: Path
) -> None:
    journal, limit = tmp_path / "out" / "tiny" / "study.log", 100_003
    many = ("--set", "search.trials=60")
    line = assert_fails_in_one_sentence(
        start("run", config, *many, prepare=limit_file_size(limit))
    )
    assert f"study {journal}: cannot store another trial (File too large)" in line
    assert "all trials so far are kept" in line
    assert limit - 4000 < size(journal) <= limit and journal.read_bytes().endswith(b"\n")
    known = complete(open_store(str(journal)))
    assert 5 < len(known) < 60
    goes_on(start, config, journal, known, *many)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here; files that cannot grow are tested too")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_costs_no_trial(start: StartCommand, config: Path, small_disk: Path) -> None:
    journal = small_disk / "trials.log"
    many = ("--set", "search.trials=60", "--set", f"storage={journal}")
    line = assert_fails_in_one_sentence(start("run", config, *many))
    assert f"study {journal}: cannot store another trial (No space left on device)" in line
    known = complete(open_store(str(journal)))
    assert 5 < len(known) < 60
    larger = ["mount", "-o", f"remount,size={WHOLE_DISK}", str(small_disk)]
    subprocess.run(larger, check=True)
    goes_on(start, config, journal, known, *many)


def test_a_result_that_cannot_be_written_leaves_the_old_one(
    start: StartCommand, config: Path, tmp_path: Path, database: str
) -> None:
    out = tmp_path / "out" / "tiny"
    run_to_end(start, config)
    old = (out / "result.json").read_bytes()
    arguments = (config, "--set", f"storage={database}", "--set", "budget=100%")
    line = assert_fails_in_one_sentence(start("run", *arguments, prepare=limit_file_size(3000)))
    assert re.search(rf"cannot write {re.escape(str(out))}/\S+: File too large", line)
    assert (out / "result.json").read_bytes() == old
    assert not [path for path in out.rglob("*") if ".part" in path.name]


def test_a_folder_that_takes_nothing_is_named(
    start: StartCommand, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "tiny"
    run_to_end(start, config)
    old, journal = (out / "result.json").read_bytes(), out / "study.log"
    out.chmod(0o555)
    line = assert_fails_in_one_sentence(start("run", config, prepare=drop_root_capabilities))
    assert f"out folder {out} cannot be written to: Permission denied" in line
    out.chmod(0o755)
    journal.chmod(0o444)
    more = ("--set", "search.trials=20")
    line = assert_fails_in_one_sentence(
        start("run", config, *more, prepare=drop_root_capabilities)
    )
    assert f"study {journal}: cannot store another trial (Permission denied)" in line
    assert (out / "result.json").read_bytes() == old


# Told to stop.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_search_that_is_told_to_stop_says_how_to_go_on(
    start: StartCommand, config: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    journal = tmp_path / "out" / "tiny" / "study.log"
    many = ("--set", f"search.trials={TRIALS}")
    command = start("run", config, *many)
    wait_until(lambda: size(journal) > 20_000 and len(complete(open_store(str(journal)))) > 0)
    command.send(number)
    assert "run the same command again to continue" in assert_fails_in_one_sentence(command, code)
    storage = open_store(str(journal))
    known = complete(storage)
    assert 0 < len(known) < TRIALS and not claimed(storage, command.study)
    goes_on(start, config, journal, known, *many)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_statistics_that_are_told_to_stop_leave_nothing_unfinished(
    start: StartCommand, config: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    cold = ("--set", f"cache={tmp_path / 'cache'}", "--set", "frames.count=60")
    command = start("run", config, *cold)
    wait_until(lambda: "Statistics of every stage" in command.output)
    time.sleep(0.3)
    command.send(number)
    assert "run the same command again to continue" in assert_fails_in_one_sentence(command, code)
    assert "Similarity of" not in command.output
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]
    assert not (tmp_path / "out" / "tiny" / "result.json").exists()


def test_a_worker_that_is_told_to_stop_lets_go_of_its_plan(
    store: str, start: StartCommand
) -> None:
    study = begun(ENDLESS.problem(0.8), store, 10_000)
    storage = open_store(store)
    worker = start("worker", store, study)
    wait_until(lambda: len(complete(storage)) > 5)
    worker.send(signal.SIGTERM)
    assert_fails_in_one_sentence(worker, 143)
    assert not claimed(storage, study)


# Damaged files.


def journal_of(folder: Path, trials: int) -> tuple[Path, StudySettings]:
    path = folder / "trials.log"
    settings = StudySettings("made-up", str(path), "local", trials, 0)
    run_study(PlanEvaluator(SPACE.problem(0.8)), settings)
    return path, settings


def test_nothing_is_left_of_a_long_line_that_was_cut_short(tmp_path: Path) -> None:
    path, settings = journal_of(tmp_path, 3)
    first, problem, *_ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + problem[:-1])
    other = replace(settings, name="other")  # its first line is shorter than what was cut
    assert run_study(PlanEvaluator(SPACE.problem(0.8)), other).trials == 3
    assert len(complete(open_store(str(path)))) == 3


@pytest.mark.parametrize("lost", [1, 2, 40, 300])
def test_a_journal_whose_end_is_missing_is_healed(tmp_path: Path, lost: int) -> None:
    path, settings = journal_of(tmp_path, 20)
    known = complete(open_store(str(path)))
    os.truncate(path, size(path) - lost)
    left = complete(open_store(str(path)))
    assert left.items() <= known.items() and len(left) >= 18
    assert run_study(PlanEvaluator(SPACE.problem(0.8)), settings).trials == 20
    again = complete(open_store(str(path)))
    assert left.items() <= again.items()
    assert len(set(plans_of(again, settings.study_name(SPACE.problem(0.8))))) == 20


def test_a_journal_whose_middle_is_garbage_is_named_and_left_alone(tmp_path: Path) -> None:
    path, settings = journal_of(tmp_path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    for garbage in (b"\0" * 20 + b"\n", b'{"op_code":99}\n', b"[]\n", b'{"op_code":4}\n'):
        path.write_bytes(b"".join([*lines[:7], garbage, *lines[7:]]))
        found = path.read_bytes()
        for use in (
            lambda: run_study(PlanEvaluator(SPACE.problem(0.8)), settings),
            lambda: join_study(str(path), "anything"),
        ):
            with pytest.raises(DamagedStudy, match=re.escape(f"study {path}: cannot be read")):
                use()
        assert path.read_bytes() == found


@pytest.mark.parametrize("garbage", [b"\0" * 20, b"garbage", b'{"op_code":'])
def test_garbage_at_the_end_of_a_journal_is_named_too(tmp_path: Path, garbage: bytes) -> None:
    path, settings = journal_of(tmp_path, 5)
    path.write_bytes(path.read_bytes() + garbage + b"\n")
    with pytest.raises(DamagedStudy, match=re.escape(str(path))):
        run_study(PlanEvaluator(SPACE.problem(0.8)), settings)


@pytest.mark.parametrize("text", ["my notes", "my notes\n", '{"a": 1}', "\0\0\0"])
def test_a_file_that_is_no_journal_staysas_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    settings = StudySettings("made-up", str(path), "local", 3, 0)
    with pytest.raises(DamagedStudy, match=r"notes\.txt: cannot be read"):
        run_study(PlanEvaluator(SPACE.problem(0.8)), settings)
    assert path.read_text() == text


def test_a_worker_makes_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "gone.log"
    assert f"study {path}: there is no such file" in refused("worker", str(path), "study")
    assert not path.exists()
