"""Memory that is left, as the machine and its control groups say."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from search.utils.memory import available_memory

GROUPS = {
    "version 2": ("0::/box/job", "sys/fs/cgroup", "memory.max", "memory.current"),
    "version 1": (
        "5:cpuset:/\n4:memory:/box/job",
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
    ),
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("version", GROUPS)
def test_the_tightest_group_around_the_process_counts(version: str, tmp_path: Path) -> None:
    groups, mount, limit, usage = GROUPS[version]
    write(tmp_path / "proc/self/cgroup", groups)
    for folder, most, used in (("box/job", "max", 500_000), ("box", "1000000", 700_000)):
        write(tmp_path / mount / folder / limit, most)
        write(tmp_path / mount / folder / usage, str(used))
        write(tmp_path / mount / folder / "memory.stat", "anon 5\ninactive_file 200000\n")
    assert available_memory(tmp_path) == 1_000_000 - 700_000 + 200_000


def test_a_group_without_files_sets_no_limit(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/")
    assert 0 < available_memory(tmp_path) <= psutil.virtual_memory().total


def test_a_group_above_its_limit_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/")
    for name, text in (("max", "100"), ("current", "200"), ("stat", "")):
        write(tmp_path / f"sys/fs/cgroup/memory.{name}", text)
    assert available_memory(tmp_path) == 0


def test_this_machine_has_memory_left() -> None:
    assert 0 < available_memory() <= psutil.virtual_memory().total
