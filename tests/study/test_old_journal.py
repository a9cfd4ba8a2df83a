"""A study whose journal an earlier version has written is continued, not started again."""

from __future__ import annotations

import shutil
from pathlib import Path

from tiny import MadeUpDeployment

from search.study.objectives import PlanEvaluator
from search.study.optimize import StudySettings, join_study, run_study

JOURNAL = Path(__file__).parent / "journal_of_an_earlier_version.jsonl"
"""Eight trials of the sampler `local` with seed 0, written before the modules got their names."""
PLANS = (
    "05d92744d871", "79152702364e", "3c633a1da54f", "e27fb318fba6", "0500f7c815db",
    "a12b28a46b59", "c874f331e190", "902a91c85570",
)  # fmt: skip


def test_the_trials_of_an_earlier_version_are_continued(tmp_path: Path) -> None:
    problem = MadeUpDeployment({"a": 2, "b": 2}).problem(0.9)
    store = shutil.copy(JOURNAL, tmp_path / "study.log")
    settings = StudySettings("made-up", str(store), "local", 12, 0)
    result = run_study(PlanEvaluator(problem), settings)
    hashes = [plan.plan.hash for plan in result.evaluated]
    assert tuple(hashes[:8]) == PLANS
    assert len(set(hashes)) == len(hashes) == 12


def test_a_worker_joins_a_study_that_an_earlier_version_has_begun(tmp_path: Path) -> None:
    problem = MadeUpDeployment({"a": 2, "b": 2}).problem(0.9)
    store = shutil.copy(JOURNAL, tmp_path / "study.log")
    name = StudySettings("made-up", str(store), "local", 8, 0).study_name(problem)
    assert join_study(str(store), name) == 0  # its eight trials are done
