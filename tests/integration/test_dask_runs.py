"""A run on workers of this machine gives the result of a run in one process, and leaves none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import StartCommand, wait_until
from tiny import Weights, config_data, run_config, with_changes, write_config

OWN_KEYS = ("seconds", "created", "latency_ms", "config", "tracking", "bundle")
"""Parts of a result that differ between two runs of the same search."""


def workers_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def values_of(result: Path) -> dict[str, Any]:
    """Return the values that two runs of one search have in common, by their paths."""
    content = json.loads(result.read_text())
    return dict(flattened({k: v for k, v in content.items() if k not in OWN_KEYS}, ""))


def flattened(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from flattened(item, f"{path}/{key}")
    else:
        yield path, value


@pytest.mark.durability
def test_a_run_on_workers_gives_the_same_result_and_leaves_no_process(
    weights: Weights, tmp_path: Path, start: StartCommand
) -> None:
    data = with_changes(config_data(weights), {"search.metric": "fidelity", "search.trials": 20})
    local = run_config(write_config(tmp_path / "local", data))
    data |= {"execution": "dask", "dask": 2}
    path = write_config(tmp_path / "dask", data)

    killed = start("run", path)
    wait_until(lambda: len(workers_of(killed.pid)) > 2)
    workers = workers_of(killed.pid)
    assert killed.kill()
    wait_until(lambda: not any(worker.is_running() for worker in workers))

    command = start("run", path)
    wait_until(lambda: not command.is_running or len(workers_of(command.pid)) > 2)
    workers = workers_of(command.pid)
    assert command.exit_code() == 0, command.output
    there = values_of(path.parent / "out/tiny/result.json")
    here = values_of(local.out / "result.json")
    assert there.keys() == here.keys()
    differing = {
        key: (value, there[key])
        for key, value in here.items()
        if value != (pytest.approx(there[key]) if isinstance(value, float) else there[key])
    }
    assert differing == {}
    wait_until(lambda: not any(worker.is_running() for worker in workers))
