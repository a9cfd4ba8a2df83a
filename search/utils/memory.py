"""How much memory this process may still use: the machine's, or what its control group allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path("/")


def available_memory(root: Path = ROOT) -> int:
    """Return the bytes that this process can take without swapping or being killed.

    `root` is the folder that holds `proc` and `sys`.
    """
    return min([psutil.virtual_memory().available, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield how many bytes each control group of the process leaves: containers are such."""
    for folder, limit, usage in _memory_groups(root):
        try:
            text = (folder / limit).read_text().strip()
            used = int((folder / usage).read_text())
            cached = _reclaimable(folder / "memory.stat")
        except (OSError, ValueError):
            continue  # the root group has no such files
        if text.isdecimal():  # "max" is no limit
            yield max(0, int(text) - used + cached)


def _memory_groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the folder of each group around the process, and its files of limit and usage."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # In a container the path may be that outside of it: then only the mount itself exists.
        own = mount / group.lstrip("/")
        for folder in (own, *own.parents):
            yield folder, *names
            if folder == mount:
                break


def _reclaimable(stat: Path) -> int:
    """Return the bytes of cached files that the kernel gives back when memory is short."""
    for line in stat.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
