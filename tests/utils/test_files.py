"""Atomic writes and file locks."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from search.utils.files import STALE_AFTER, CannotWrite, replace_file, write_bytes
from search.utils.locks import file_lock


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    with pytest.raises(CannotWrite, match=r"cannot write .*a\.json"), replace_file(path) as part:
        part.write_bytes(b"half")
        raise OSError("no more")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.json"]


def test_stale_temporary_files_are_removed_and_fresh_ones_are_not(tmp_path: Path) -> None:
    stale, fresh, unrelated = (tmp_path / n for n in (".a.7.part", ".a.8.part", ".ab.7.part"))
    long_ago = time.time() - STALE_AFTER - 1
    for path, written in ((stale, long_ago), (fresh, time.time()), (unrelated, long_ago)):
        path.write_bytes(b"half")
        os.utime(path, (written, written))
    write_bytes(tmp_path / "a", b"new")
    assert sorted(os.listdir(tmp_path)) == [".a.8.part", ".ab.7.part", "a"]


def _count_up(path: Path) -> None:
    for _ in range(50):
        with file_lock(path):
            count = int(path.read_text())
            time.sleep(0.0005)
            path.write_text(str(count + 1))


def test_one_process_at_a_time_holds_the_lock_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    processes = [multiprocessing.Process(target=_count_up, args=(path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert path.read_text() == "150"


def test_a_path_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CannotWrite, match=r"cannot write .*file/x"),
        file_lock(tmp_path / "file/x"),
    ):
        pass
