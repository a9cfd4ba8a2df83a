"""A killed search loses no evaluated plan: real processes, real signals."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from commands import Command, StartCommand, run_to_end, wait_for_work, wait_until
from mlflow.tracking import MlflowClient
from stored_trials import claimed_plans, complete_trials, file_size, plans_of, trial_count
from tiny import with_changes, write_config

from search.results.documents import content_id
from search.results.search_result import Result
from search.study.storage import open_store
from search.tracking.run_writer import PARENT_TAG, RESULT_TAG
from search.utils.records import load_record

TRIALS = 600
BYTES_PER_TRIAL = 3500
"""Approximate size of a trial in a journal."""


def _anywhere(command: Command, journal: Path, chance: random.Random) -> None:
    wait_for_work(command.pid, chance.uniform(0, 0.7))


def _between_trials(command: Command, journal: Path, chance: random.Random) -> None:
    enough = file_size(journal) + chance.uniform(1, 20) * BYTES_PER_TRIAL
    wait_until(lambda: file_size(journal) >= enough or not command.is_running)


def _after_the_search(command: Command, journal: Path, chance: random.Random) -> None:
    wait_until(lambda: "plans evaluated" in command.output or not command.is_running)
    wait_for_work(command.pid, chance.uniform(0, 2))


# A fast machine may evaluate all remaining plans at the later moments.
MOMENTS = [*[_between_trials] * 13, *[_anywhere] * 3, *[_after_the_search] * 4]


@pytest.mark.durability
def test_a_search_killed_at_twenty_moments_loses_nothing(
    start: StartCommand, search_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "tiny"
    run_to_end(start, search_config, "--set", "budget=100%")
    old, journal, chance = (out / "result.json").read_bytes(), out / "study.log", random.Random(20)
    storage = open_store(str(journal))
    before, kills, advances = complete_trials(storage), 0, 0
    for moment in MOMENTS:
        command = start("run", search_config, "--set", f"search.trials={TRIALS}")
        moment(command, journal, chance)
        kills += command.kill()
        after = complete_trials(storage)
        assert before.items() <= after.items()
        advances += 12 + TRIALS > len(after) > len(before)
        before = after
        assert is_old_or_complete(out / "result.json", old)
    assert kills >= 18 and advances >= 10
    last = run_to_end(start, search_config, "--set", f"search.trials={TRIALS}")
    trials = complete_trials(open_store(str(journal)))
    plans = plans_of(trials, last.study)
    assert before.items() <= trials.items()
    assert len(plans) == len(set(plans)) == TRIALS == trial_count(out)
    assert not claimed_plans(storage, last.study)
    assert start("sync", out).exit_code() == 0
    assert is_logged_once(out / "result.json", search_config)
    assert not (out / "unlogged").exists()


def is_old_or_complete(path: Path, old: bytes) -> bool:
    """Return whether a file is the old result or a complete new one."""
    content = path.read_bytes()
    return content == old or load_record(Result, content, "result").study["trials"] == TRIALS


def is_logged_once(result: Path, config: Path) -> bool:
    """Return whether MLflow has one parent run of a result; assert that all runs are finished."""
    uri = f"sqlite:///{config.read_text().partition('sqlite:///')[2].split()[0]}"
    client = MlflowClient(tracking_uri=uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    identity = content_id(result.read_bytes())
    runs = client.search_runs(experiments, f"tags.`{RESULT_TAG}` = '{identity}'")
    parents = [run for run in runs if PARENT_TAG not in run.data.tags]
    assert {run.info.status for run in runs} == {"FINISHED"}
    return len(parents) == 1


def test_one_of_two_runs_recreates_a_tracking_store_after_a_kill(
    start: StartCommand, search_data: dict[str, Any], tmp_path: Path
) -> None:
    store = tmp_path / "new.db"
    uri = {"mlflow.tracking_uri": f"sqlite:///{store}"}
    config = write_config(tmp_path, with_changes(search_data, uri))
    command = start("run", config)
    wait_until(lambda: any(file_size(part) > 0 for part in tmp_path.glob(".new.db.*.part")))
    assert command.kill() and not store.exists()
    runs = [start("run", config) for _ in range(2)]
    assert [run.exit_code() for run in runs] == [0, 0], [run.output for run in runs]
    assert is_logged_once(tmp_path / "out" / "tiny" / "result.json", config)
