"""Commands that SIGINT or SIGTERM stops leave nothing unfinished, and say how to continue."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from commands import StartCommand, assert_fails_in_one_sentence, wait_for_work, wait_until
from stored_trials import (
    assert_continues,
    claimed_plans,
    complete_trials,
    file_size,
    interrupted_study,
)
from tiny import MadeUpDeployment

from search.study.storage import open_store

TRIALS = 600
ENDLESS = MadeUpDeployment({"a": 12, "b": 12})
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
"""Signals and the exit codes of the commands that they stop."""


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_stopped_search_says_how_to_continue(
    start: StartCommand, search_config: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    journal = tmp_path / "out" / "tiny" / "study.log"
    many = ("--set", f"search.trials={TRIALS}")
    command = start("run", search_config, *many)
    wait_until(lambda: file_size(journal) > 20_000)
    wait_until(lambda: len(complete_trials(open_store(str(journal)))) > 0)
    command.send(number)
    assert "run the same command again to continue" in assert_fails_in_one_sentence(command, code)
    storage = open_store(str(journal))
    before = complete_trials(storage)
    assert 0 < len(before) < TRIALS and not claimed_plans(storage, command.study)
    assert_continues(start, search_config, journal, before, *many)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_run_stopped_during_the_statistics_leaves_nothing_unfinished(
    start: StartCommand, search_config: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # Scenes of another seed: those of the config are rendered before the process is forked.
    scenes = ("--set", "frames.count=600", "--set", "frames.scenes.seed=9")
    cold = ("--set", f"cache={tmp_path / 'cache'}", *scenes)
    command = start("run", search_config, *cold)
    wait_until(lambda: "Statistics of every stage" in command.output)
    wait_for_work(command.pid, 0.3)
    command.send(number)
    assert "run the same command again to continue" in assert_fails_in_one_sentence(command, code)
    assert "Similarity of" not in command.output
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]
    assert not (tmp_path / "out" / "tiny" / "result.json").exists()


def test_a_stopped_worker_releases_its_plan(store: str, start: StartCommand) -> None:
    study = interrupted_study(ENDLESS.problem(0.8), store, 10_000)
    storage = open_store(store)
    worker = start("worker", store, study)
    wait_until(lambda: len(complete_trials(storage)) > 5)
    worker.send(signal.SIGTERM)
    assert_fails_in_one_sentence(worker, 143)
    assert not claimed_plans(storage, study)
