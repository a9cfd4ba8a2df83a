"""A finished run can be read back from its folder alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import FinishedRun

from search.config.base import BadConfig
from search.data.frames import BadFrames
from search.deploy.run_folder import NoSuchRun
from search.pipelines.finished_run import LoadedRun, NoSuchPlan
from search.utils.console import ConsoleReporter
from search.utils.files import write_json
from search.utils.records import BadRecord


def test_a_run_is_read_back_unchanged(tiny_run: FinishedRun) -> None:
    loaded = LoadedRun.from_folder(tiny_run.out)
    assert loaded.result == tiny_run.result and loaded.config == tiny_run.config
    observed = loaded.observe(ConsoleReporter())
    assert observed.frames.hash == tiny_run.result.frames["hash"]


def test_a_run_can_be_moved_with_its_config(tiny_run: FinishedRun, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(tiny_run.config.base, folder)
    loaded = LoadedRun.from_folder(folder / tiny_run.out.relative_to(tiny_run.config.base))
    assert loaded.config.base == folder


def test_a_plan_is_found_by_a_prefix_of_its_hash(tiny_run: FinishedRun) -> None:
    loaded = LoadedRun.from_folder(tiny_run.out)
    chosen = loaded.result.chosen
    assert chosen and loaded.plan(None).hash == chosen == loaded.plan(chosen[:8]).hash
    assert {record.hash for record in loaded.plans} >= {r.hash for r in loaded.result.front}
    with pytest.raises(NoSuchPlan, match=f"no plan with a hash that begins with 'xyz'.*{chosen}"):
        loaded.plan("xyz")
    if len(loaded.plans) > 1:
        with pytest.raises(NoSuchPlan, match="plans with a hash that begins with ''"):
            replace(loaded, result=replace(loaded.result, chosen="")).plan("")


def test_changed_frames_are_refused(tiny_run: FinishedRun) -> None:
    loaded = LoadedRun.from_folder(tiny_run.out)
    assert len(loaded.frames()) == 28
    frames = loaded.config.frames.model_copy(update={"count": 30})
    altered = replace(loaded, config=loaded.config.model_copy(update={"frames": frames}))
    with pytest.raises(BadFrames, match=r"have changed since: 30 with hash .* it was 28 with"):
        altered.observe(ConsoleReporter())


def test_a_folder_without_a_readable_result_is_refused(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    with pytest.raises(NoSuchRun, match=r"no result\.json; give the folder"):
        LoadedRun.from_folder(tmp_path)
    data = json.loads((tiny_run.out / "result.json").read_text())
    write_json(tmp_path / "result.json", {**data, "schema": 99, "unheard_of": 1})
    with pytest.raises(BadRecord, match=r"result\.json: "):
        LoadedRun.from_folder(tmp_path)
    config = {**data["config"], "seed": -1}
    write_json(tmp_path / "result.json", {**data, "config": config})
    with pytest.raises(BadConfig, match=r"result\.json: seed"):
        LoadedRun.from_folder(tmp_path)
