"""Searches on a PostgreSQL server that refuses, is silent or dies; none shows the password."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from commands import StartCommand, assert_fails_in_one_sentence, run_to_end, wait_until
from postgres import PASSWORD, Postgres
from servers import free_port
from sqlalchemy.exc import SQLAlchemyError
from stored_trials import SPACE, complete_trials, plans_of, refusal, trial_count

from search.study.objectives import PlanEvaluator
from search.study.optimize import StudySettings, run_study
from search.study.storage import StoreFailed, open_store, translated_errors


def test_an_error_names_an_unreachable_database_without_its_password(postgres: Postgres) -> None:
    wrong_password = refusal("worker", postgres.url("postgres", f"{PASSWORD}!"), "study")
    assert "password authentication failed" in wrong_password
    assert "storage postgresql://127" in wrong_password
    assert '"nowhere" does not exist' in refusal("worker", postgres.url("nowhere"), "study")
    unused_port = f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/db"
    assert "Connection refused" in refusal("worker", unused_port, "study")
    malformed = f"postgresql://me:{PASSWORD}@127.0.0.1:port/db"
    assert "%2F" in refusal("worker", malformed, "study")


def test_connecting_to_a_silent_server_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        url = f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/db?connect_timeout=2"
        assert "timeout expired" in refusal("worker", url, "study")


def test_a_failure_outside_the_database_shows_no_password_either(database: str) -> None:
    def fail(done: int) -> None:
        raise BrokenPipeError("the reader of the output has gone")

    settings = StudySettings("made-up", database, "local", 3, 0)
    with pytest.raises(StoreFailed) as failure:
        run_study(PlanEvaluator(SPACE.problem(0.8)), settings, (), fail)
    assert PASSWORD not in str(failure.value)


def test_an_interrupt_stays_an_interrupt_when_the_database_fails_with_it() -> None:
    with pytest.raises(KeyboardInterrupt), translated_errors("postgresql://there"):
        try:
            raise KeyboardInterrupt
        finally:
            raise SQLAlchemyError("connection in transaction status ACTIVE")


def test_a_run_on_a_database_writes_its_password_nowhere(
    start: StartCommand, search_config: Path, tmp_path: Path, database: str
) -> None:
    run = run_to_end(start, search_config, "--set", f"storage={database}")
    plans = plans_of(complete_trials(open_store(database)), run.study)
    assert len(plans) == len(set(plans)) == 12
    assert not (tmp_path / "out" / "tiny" / "study.log").exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "out" / "tiny" / "result.json" in files
    for path in files:  # the output of the command is among them
        assert PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.durability
def test_a_search_continues_after_its_database_died_and_came_back(
    start: StartCommand, search_config: Path, tmp_path: Path, postgres: Postgres, database: str
) -> None:
    arguments = (search_config, "--set", f"storage={database}", "--set", "search.trials=200")
    run, storage = start("run", *arguments), open_store(database)
    wait_until(lambda: "merge-search worker" in run.output)
    wait_until(lambda: len(storage.get_all_studies()) == 1 and len(complete_trials(storage)) > 8)
    worker = start("worker", database, run.study)
    count = len(complete_trials(storage))
    wait_until(lambda: len(complete_trials(storage)) > count + 8)
    before = complete_trials(storage)
    postgres.kill()
    for command in (run, worker):
        line = assert_fails_in_one_sentence(command)
        assert "the database failed (" in line and "run the same command again to continue" in line
        assert PASSWORD not in command.output
    assert not (tmp_path / "out" / "tiny" / "result.json").exists()
    postgres.start()
    run_to_end(start, *arguments)
    after = complete_trials(open_store(database))
    assert before.items() <= after.items()
    plans = plans_of(after, run.study)
    assert len(plans) == len(set(plans)) == 200 == trial_count(tmp_path / "out" / "tiny")
