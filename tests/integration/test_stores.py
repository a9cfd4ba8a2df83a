"""Every store keeps the store contract; damaged journals are repaired, or refused unchanged."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from contracts import StoreContract
from stored_trials import SPACE, complete_trials, file_size, plans_of, refusal

from search.study.objectives import PlanEvaluator
from search.study.optimize import StudyResult, StudySettings, join_study, run_study
from search.study.storage import DamagedStudy, open_store

PROBLEM = SPACE.problem(0.8)


@pytest.mark.parametrize("store", ["journal", "postgresql"], indirect=True)
class TestEveryStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _set_store(self, store: str) -> None:
        self.where = store


def search(settings: StudySettings) -> StudyResult:
    return run_study(PlanEvaluator(PROBLEM), settings)


def settings_for(journal: Path, trials: int) -> StudySettings:
    return StudySettings("made-up", str(journal), "local", trials, 0)


def write_journal(folder: Path, trials: int) -> tuple[Path, StudySettings]:
    """Write the journal of a complete search; return its path and the search's settings."""
    path = folder / "trials.log"
    settings = settings_for(path, trials)
    search(settings)
    return path, settings


def test_a_long_truncated_line_is_removed_completely(tmp_path: Path) -> None:
    path, settings = write_journal(tmp_path, 3)
    first, problem, *_ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + problem[:-1])
    other = replace(settings, name="other")  # its first line is shorter than the truncated one
    assert search(other).trials == 3
    assert len(complete_trials(open_store(str(path)))) == 3


@pytest.mark.parametrize("missing", [1, 2, 40, 300])
def test_a_journal_whose_end_is_missing_is_repaired(tmp_path: Path, missing: int) -> None:
    path, settings = write_journal(tmp_path, 20)
    original = complete_trials(open_store(str(path)))
    os.truncate(path, file_size(path) - missing)
    remaining = complete_trials(open_store(str(path)))
    assert remaining.items() <= original.items() and len(remaining) >= 18
    assert search(settings).trials == 20
    repaired = complete_trials(open_store(str(path)))
    assert remaining.items() <= repaired.items()
    assert len(set(plans_of(repaired, settings.study_name(PROBLEM)))) == 20


def test_a_journal_with_garbage_in_the_middle_is_refused_unchanged(tmp_path: Path) -> None:
    path, settings = write_journal(tmp_path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    for garbage in (b"\0" * 20 + b"\n", b'{"op_code":99}\n', b"[]\n", b'{"op_code":4}\n'):
        path.write_bytes(b"".join([*lines[:7], garbage, *lines[7:]]))
        damaged = path.read_bytes()
        for use in (lambda: search(settings), lambda: join_study(str(path), "anything")):
            with pytest.raises(DamagedStudy, match=re.escape(f"study {path}: cannot be read")):
                use()
        assert path.read_bytes() == damaged


@pytest.mark.parametrize("garbage", [b"\0" * 20, b"garbage", b'{"op_code":'])
def test_a_journal_with_garbage_at_its_end_is_refused(tmp_path: Path, garbage: bytes) -> None:
    path, settings = write_journal(tmp_path, 5)
    path.write_bytes(path.read_bytes() + garbage + b"\n")
    with pytest.raises(DamagedStudy, match=re.escape(str(path))):
        search(settings)


@pytest.mark.parametrize("text", ["my notes", "my notes\n", '{"a": 1}', "\0\0\0"])
def test_a_file_that_is_no_journal_is_refused_unchanged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(DamagedStudy, match=r"notes\.txt: is another file, not a journal"):
        search(settings_for(path, 3))
    assert path.read_text() == text


def test_a_worker_creates_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "gone.log"
    assert f"study {path}: there is no such file" in refusal("worker", str(path), "study")
    assert not path.exists()
