"""Network file systems whose locks other machines do not see are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.utils.locks import describe_local_locks

ROOT = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


def mounted(kind: str, options: str, point: str = "/mnt/team") -> str:
    return f"{ROOT}\n36 22 0:40 / {point} rw,noatime shared:9 - {kind} server:/export {options}\n"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("nfs", "rw,vers=3,nolock,addr=10.0.0.1"),
        ("nfs4", "rw,vers=4.2,local_lock=all"),
        ("nfs", "rw,vers=3,local_lock=flock"),
        ("cifs", "rw,nobrl"),
        ("fuse.sshfs", "rw,user_id=0"),
    ],
)
def test_a_file_system_with_local_locks_is_named_with_the_cure(kind: str, options: str) -> None:
    text = describe_local_locks(Path("/mnt/team/out/study.log"), mounted(kind, options))
    assert text.startswith(f"/mnt/team/out/study.log: /mnt/team is a network file system ({kind})")
    assert "PostgreSQL" in text


@pytest.mark.parametrize(
    ("kind", "options"),
    [("nfs4", "rw,vers=4.2,local_lock=none"), ("ext4", "rw"), ("fuse.mergerfs", "rw")],
)
def test_locks_that_all_machines_see_need_no_warning(kind: str, options: str) -> None:
    assert describe_local_locks(Path("/mnt/team/study.log"), mounted(kind, options)) == ""


def test_only_the_innermost_mount_of_the_file_counts() -> None:
    mounts = mounted("nfs", "rw,nolock") + "37 36 8:2 / /mnt/team/local rw - ext4 /dev/sdb rw\n"
    assert describe_local_locks(Path("/mnt/team/local/study.log"), mounts) == ""
    assert describe_local_locks(Path("/mnt/teams/study.log"), mounts) == ""
    spaced = mounted("nfs", "rw,nolock", r"/mnt/the\040team")
    assert describe_local_locks(Path("/mnt/the team/study.log"), spaced) != ""
    assert describe_local_locks(Path("/tmp/study.log"), "no mountinfo\n") == ""
