"""Trials in PostgreSQL: few statements, and the same tables as Optuna's own storage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from stored_trials import SPACE, trials_of

from search.study.database import batched_storage
from search.study.database.batched_storage import BatchedStorage
from search.study.objectives import PlanEvaluator
from search.study.optimize import StudySettings, run_study
from search.study.storage import open_store

CHOICES: dict[str, BaseDistribution] = {
    "one": CategoricalDistribution(("-", "a", "b")),
    "two": CategoricalDistribution("xy"),
}


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """Collect the statements that are executed in the block."""
    statements: list[str] = []

    def count(connection: object, cursor: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    try:
        yield statements
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", count)


@pytest.fixture
def theirs(database: str) -> Iterator[RDBStorage]:
    """Return Optuna's own storage of the database, which has its tables already."""
    open_store(database)
    url = sqlalchemy.make_url(database.replace("postgresql://", "postgresql+psycopg://"))
    storage = RDBStorage(url.render_as_string(hide_password=False))
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def new_study(storage: optuna.storages.BaseStorage) -> optuna.Study:
    return optuna.create_study(
        study_name="made-up", storage=storage, directions=["minimize", "maximize"],
        sampler=optuna.samplers.RandomSampler(seed=1),
    )  # fmt: skip


def finish_all_kinds(study: optuna.Study) -> None:
    """Add a complete trial, one of infinite value, a failed one, and one that is running."""
    for values in ((1.5, 0.1 + 0.2), (math.inf, -math.inf)):
        trial = study.ask(CHOICES)
        trial.set_user_attr("claim", ["a plan's hash", "a 'process'"])
        trial.set_constraint("too large", -0.25)
        study.tell(trial, values)
    study.tell(study.ask(CHOICES), state=TrialState.FAIL)
    study.ask(CHOICES).set_user_attr("claim", ["another", "process"])


def content(trial: FrozenTrial) -> tuple[object, ...]:
    """Return all of a trial but when it ended, which the writer itself knows less exactly."""
    return (trial.number, trial._trial_id, trial.state, trial.values, trial.params,
            trial.distributions, trial.user_attrs, trial.system_attrs, trial.constraints,
            trial.datetime_start)  # fmt: skip


def contents(storage: optuna.storages.BaseStorage) -> list[tuple[object, ...]]:
    study = storage.get_study_id_from_name("made-up")
    return [*map(content, storage.get_all_trials(study))]


def test_optunas_own_storage_reads_what_is_written(database: str, theirs: RDBStorage) -> None:
    storage = open_store(database)
    assert isinstance(storage, BatchedStorage)
    finish_all_kinds(new_study(storage))
    own = contents(storage)
    assert [row[2].name for row in own] == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING"]  # type: ignore[attr-defined]
    assert own[1][3] == [math.inf, -math.inf]
    assert own == contents(theirs) == contents(open_store(database))


def test_what_optunas_own_storage_writes_is_read(database: str, theirs: RDBStorage) -> None:
    reader = open_store(database)
    study = new_study(theirs)
    for _ in range(2):  # at once, and what has been added since
        finish_all_kinds(study)
        assert contents(reader) == contents(theirs)
    running = theirs.get_all_trials(study._study_id)[3]
    theirs.set_trial_state_values(running._trial_id, TrialState.COMPLETE, (1.0, 2.0))
    assert contents(reader) == contents(theirs)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        reader.set_trial_user_attr(running._trial_id, "late", 1)


def test_both_storages_number_the_trials_together(database: str, theirs: RDBStorage) -> None:
    ours = new_study(open_store(database))
    other = optuna.load_study(study_name="made-up", storage=theirs)
    numbers = [study.ask(CHOICES).number for study in (ours, other) * 4]
    assert numbers == [*range(8)]
    assert [trial.number for trial in ours.get_trials()] == numbers


def test_a_trial_that_another_process_has_ended_is_not_ended_again(
    database: str, theirs: RDBStorage
) -> None:
    study = new_study(open_store(database))
    trial = study.ask(CHOICES)
    study.get_trials()  # stores the parameters
    trial.set_constraint("too large", 1.0)
    theirs.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study.tell(trial, (1.0, 2.0))
    assert contents(study._storage) == contents(theirs)
    assert study.get_trials()[0].state == TrialState.FAIL


@pytest.mark.parametrize("statement", ["store", "end_trial"])
def test_a_process_that_is_stopped_just_after_a_statement_ends_its_trial(
    statement: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process that could not end its trial would keep the plan from all others."""
    module = "search.study.database.batched_storage"
    done = getattr(batched_storage, statement)

    def stopped(*arguments: object) -> None:
        done(*arguments)
        monkeypatch.setattr(f"{module}.{statement}", done)
        raise KeyboardInterrupt

    problem = SPACE.problem(0.8)
    settings = StudySettings("made-up", database, "local", 10, 0)
    run_study(PlanEvaluator(problem), settings)
    monkeypatch.setattr(f"{module}.{statement}", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_study(PlanEvaluator(problem), replace(settings, trials=20))
    trials = trials_of(open_store(database), settings.study_name(problem))
    states = [trial.state for trial in trials]
    assert len(states) == 11 and TrialState.RUNNING not in states


def test_a_parameter_with_other_choices_is_refused(database: str) -> None:
    study = new_study(open_store(database))
    study.tell(study.ask(CHOICES), (1.0, 1.0))
    with pytest.raises(ValueError, match="does not support dynamic value space"):
        study.ask({**CHOICES, "one": CategoricalDistribution(("-", "c"))})


def test_in_a_block_from_memory_only_a_new_trial_reads(database: str) -> None:
    storage, others = open_store(database), open_store(database)
    assert isinstance(storage, BatchedStorage)
    study = new_study(storage)
    other = optuna.load_study(study_name="made-up", storage=others)
    with storage.from_memory():
        other.tell(other.ask(CHOICES), (1.0, 1.0))
        with counted_statements() as statements:
            assert study.get_trials() == [] and not statements
        study.ask(CHOICES)
        assert [t.state.name for t in study.get_trials()] == ["COMPLETE", "RUNNING"]
    assert [t.params == {} for t in others.get_all_trials(study._study_id)] == [False, True]
    study.get_trials()  # before it is read, what is pending is stored
    assert [t.params == {} for t in others.get_all_trials(study._study_id)] == [False, False]


def test_a_trial_of_a_study_takes_few_statements(database: str) -> None:
    problem = SPACE.problem(0.8)
    counts = []
    for trials in (10, 40):
        settings = StudySettings("made-up", database, "local", trials, 0)
        with counted_statements() as statements:
            assert run_study(PlanEvaluator(problem), settings).trials == trials
        counts.append(len(statements))
    assert (counts[1] - 45) / 30 <= 7 and counts[0] < 150


def test_tables_of_another_optuna_are_left_to_its_own_storage(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(open_store(database), BatchedStorage)
    monkeypatch.setattr(RDBStorage, "get_head_version", lambda self: "v9.0.0.a")
    assert not isinstance(open_store(database), BatchedStorage)
