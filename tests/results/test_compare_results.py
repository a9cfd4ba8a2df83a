"""bench/compare_results.py finds every difference between two results that matters."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bench_scripts import BENCH, load_script

RESULT: dict[str, Any] = {
    "name": "street",
    "front": [
        {"hash": "aa", "bytes": 10, "proxy": 0.1},
        {"hash": "bb", "bytes": 20, "proxy": 0.2},
    ],
    "chosen": None,
    "seconds": {"search": 1.0},
    "created": "2026-01-01T00:00:00+00:00",
    "latency_ms": {"unmerged": 5.0},
    "versions": {"torch": "2.0"},
    "bundle": "0123456789ab",
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("compare_results")


def result_with(**values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RESULT), **values}


def test_equal_results_have_no_differences(script: ModuleType) -> None:
    assert script.compare(RESULT, copy.deepcopy(RESULT)) == []


def test_times_versions_and_the_bundle_identity_are_ignored(script: ModuleType) -> None:
    other = result_with(
        seconds={"search": 2.0, "models": 1.0}, created="later", latency_ms={}, versions={}
    )
    del other["bundle"]
    assert script.compare(RESULT, other) == []


def test_a_key_below_the_top_level_is_never_ignored(script: ModuleType) -> None:
    first, second = result_with(study={"seconds": 1}), result_with(study={"seconds": 2})
    assert script.compare(first, second) == [("study.seconds", 1, 2)]


def test_each_difference_has_its_path_and_both_values(script: ModuleType) -> None:
    other = result_with(chosen="aa", extra=[1])
    other["front"][1]["proxy"] = 0.2 + 2e-16
    del other["name"]
    assert script.compare(RESULT, other) == [
        ("name", "street", script.ABSENT),
        ("front[1].proxy", 0.2, 0.2 + 2e-16),
        ("chosen", None, "aa"),
        ("extra", script.ABSENT, [1]),
    ]


def test_a_longer_list_and_a_number_of_another_type_are_differences(script: ModuleType) -> None:
    other = result_with(front=[*RESULT["front"], {"hash": "cc"}])
    other["front"][0] = {**other["front"][0], "bytes": 10.0}
    assert script.compare(RESULT, other) == [
        ("front[0].bytes", 10, 10.0),
        ("front[2]", script.ABSENT, {"hash": "cc"}),
    ]


def test_the_script_prints_the_differences_and_exits_with_1(tmp_path: Path) -> None:
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, result in zip(paths, (RESULT, result_with(name="gate")), strict=True):
        path.write_text(json.dumps(result), encoding="utf-8")

    def run(*arguments: Path) -> tuple[int, list[str]]:
        command = [sys.executable, str(BENCH / "compare_results.py"), *map(str, arguments)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        return process.returncode, process.stdout.splitlines()

    code, (difference, summary) = run(*paths)
    assert (code, difference) == (1, 'name: "street" != "gate"')
    assert json.loads(summary)["differences"] == 1
    code, (summary,) = run(paths[0], paths[0])
    assert code == 0 and json.loads(summary)["differences"] == 0
