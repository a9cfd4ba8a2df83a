"""Read the trials of a store, and start the studies that several processes work on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner
from commands import StartCommand, run_to_end
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from postgres import PASSWORD
from tiny import MadeUpDeployment

from search.cli.main import main
from search.study.objectives import PlanEvaluator
from search.study.optimize import StudySettings, run_study
from search.study.problem import Problem
from search.study.storage import open_store

SPACE = MadeUpDeployment({"a": 4, "b": 4})
Trials = dict[tuple[str, int], tuple[str, dict[str, Any], list[float]]]
"""(study, number of the trial) -> hash of its plan, parameters, values."""


class _Interrupt(Exception):
    """Interrupts a search."""


def trials_of(storage: BaseStorage, study: str) -> list[FrozenTrial]:
    """Return all trials of a study, by its name."""
    return storage.get_all_trials(storage.get_study_id_from_name(study), deepcopy=False)


def complete_trials(storage: BaseStorage) -> Trials:
    """Return the complete trials of all studies."""
    return {
        (name, trial.number): (trial.user_attrs["claim"][0], trial.params, trial.values)
        for name in optuna.get_all_study_names(storage)
        for trial in trials_of(storage, name)
        if trial.state == TrialState.COMPLETE
    }


def plans_of(trials: Trials, study: str) -> list[str]:
    """Return the hashes of the plans that the trials of a study evaluated."""
    return [plan for (name, _), (plan, _, _) in trials.items() if name == study]


def claimed_plans(storage: BaseStorage, study: str, process: str = "") -> list[str]:
    """Return the plans that running trials claim, of all processes or of matching ones."""
    claims = [t.user_attrs.get("claim") for t in trials_of(storage, study)
              if t.state == TrialState.RUNNING]  # fmt: skip
    return [claim[0] for claim in claims if claim and process in claim[1]]


def trial_count(out: Path) -> int:
    """Return the number of trials that result.json reports."""
    count: int = json.loads((out / "result.json").read_text())["study"]["trials"]
    return count


def file_size(path: Path) -> int:
    """Return the bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def interrupted_study(problem: Problem, store: str, trials: int) -> str:
    """Return the name of a study that is interrupted after its first trial."""

    def interrupt(done: int) -> None:
        if done:
            raise _Interrupt

    settings = StudySettings("made-up", store, "local", trials, 0)
    with pytest.raises(_Interrupt):
        run_study(PlanEvaluator(problem), settings, (), interrupt)
    return settings.study_name(problem)


def assert_continues(
    start: StartCommand, config: Path, journal: Path, before: Trials, *arguments: str
) -> None:
    """Assert that the same run completes from the trials before its failure, without repeats."""
    run = run_to_end(start, config, *arguments)
    trials = complete_trials(open_store(str(journal)))
    assert before.items() <= trials.items()
    plans = plans_of(trials, run.study)
    assert len(plans) == len(set(plans)) == trial_count(config.parent / "out" / "tiny")


def refusal(*arguments: str) -> str:
    """Run a command that must fail; return its error message, which is one line."""
    result = CliRunner().invoke(main, arguments)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert line.startswith("merge-search: ") and PASSWORD not in result.output
    return line
