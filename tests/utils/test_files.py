"""Writing so that a reader sees the old file or the new, one process at a time."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from search.utils.files import FORGOTTEN, CannotWrite, replacing, write_bytes
from search.utils.locks import locked


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    with pytest.raises(CannotWrite, match=r"cannot write .*a\.json"), replacing(path) as part:
        part.write_bytes(b"half")
        raise OSError("no more")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.json"]


def test_what_killed_processes_left_is_swept_and_what_others_write_is_not(tmp_path: Path) -> None:
    left, others, strange = (tmp_path / n for n in (".a.7.part", ".a.8.part", ".ab.7.part"))
    long_ago = time.time() - FORGOTTEN - 1
    for path, written in ((left, long_ago), (others, time.time()), (strange, long_ago)):
        path.write_bytes(b"half")
        os.utime(path, (written, written))
    write_bytes(tmp_path / "a", b"new")
    assert sorted(os.listdir(tmp_path)) == [".a.8.part", ".ab.7.part", "a"]


def _count_up(path: Path) -> None:
    for _ in range(50):
        with locked(path):
            count = int(path.read_text())
            time.sleep(0.0005)
            path.write_text(str(count + 1))


def test_of_processes_that_lock_a_file_one_works_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    processes = [multiprocessing.Process(target=_count_up, args=(path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert path.read_text() == "150"


def test_a_place_that_takes_no_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"cannot write .*file/x"), locked(tmp_path / "file/x"):
        pass
