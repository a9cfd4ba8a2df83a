"""Full disks and read-only folders cost no trial and no old result; the faults are real."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import (
    StartCommand,
    assert_fails_in_one_sentence,
    drop_root_capabilities,
    limit_file_size,
    run_to_end,
)
from stored_trials import assert_continues, complete_trials, file_size

from search.study.storage import open_store

SMALL_DISK, LARGE_DISK = 128 * 1024, 1 << 24
"""Bytes."""


def test_a_journal_that_cannot_grow_keeps_complete_lines(
    start: StartCommand, search_config: Path, tmp_path: Path
) -> None:
    journal, limit = tmp_path / "out" / "tiny" / "study.log", 100_003
    many = ("--set", "search.trials=60")
    line = assert_fails_in_one_sentence(
        start("run", search_config, *many, prepare=limit_file_size(limit))
    )
    assert f"study {journal}: cannot store another trial (File too large)" in line
    assert "all trials so far are kept" in line
    assert limit - 4000 < file_size(journal) <= limit and journal.read_bytes().endswith(b"\n")
    before = complete_trials(open_store(str(journal)))
    assert 5 < len(before) < 60
    assert_continues(start, search_config, journal, before, *many)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system, which only root can do."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here; files that cannot grow are tested too")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_costs_no_trial(
    start: StartCommand, search_config: Path, small_disk: Path
) -> None:
    journal = small_disk / "trials.log"
    many = ("--set", "search.trials=60", "--set", f"storage={journal}")
    line = assert_fails_in_one_sentence(start("run", search_config, *many))
    assert f"study {journal}: cannot store another trial (No space left on device)" in line
    before = complete_trials(open_store(str(journal)))
    assert 5 < len(before) < 60
    remount = ["mount", "-o", f"remount,size={LARGE_DISK}", str(small_disk)]
    subprocess.run(remount, check=True)
    assert_continues(start, search_config, journal, before, *many)


def test_a_result_that_cannot_be_written_leaves_the_old_one(
    start: StartCommand, search_config: Path, tmp_path: Path, database: str
) -> None:
    out = tmp_path / "out" / "tiny"
    run_to_end(start, search_config)
    old = (out / "result.json").read_bytes()
    arguments = (search_config, "--set", f"storage={database}", "--set", "budget=100%")
    line = assert_fails_in_one_sentence(start("run", *arguments, prepare=limit_file_size(3000)))
    assert re.search(rf"cannot write {re.escape(str(out))}/\S+: File too large", line)
    assert (out / "result.json").read_bytes() == old
    assert not [path for path in out.rglob("*") if ".part" in path.name]


def test_an_error_names_the_read_only_folder_or_journal(
    start: StartCommand, search_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "tiny"
    run_to_end(start, search_config)
    old, journal = (out / "result.json").read_bytes(), out / "study.log"
    out.chmod(0o555)
    line = assert_fails_in_one_sentence(
        start("run", search_config, prepare=drop_root_capabilities)
    )
    assert f"out folder {out} cannot be written to: Permission denied" in line
    out.chmod(0o755)
    journal.chmod(0o444)
    more = ("--set", "search.trials=20")
    line = assert_fails_in_one_sentence(
        start("run", search_config, *more, prepare=drop_root_capabilities)
    )
    assert f"study {journal}: cannot store another trial (Permission denied)" in line
    assert (out / "result.json").read_bytes() == old
