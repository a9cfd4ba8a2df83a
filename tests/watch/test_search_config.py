"""The config of a new search is that of the watch, with the windows as further frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import Weights, config_data, with_changes, write_config

from search.config.loading import load_config
from search.config.run import RunConfig
from search.watch.search_again import SearchRequest, build_search_config
from search.watch.windows import Window
from search.watch.workspace import Workspace


def search_config(config: RunConfig) -> RunConfig:
    window = Window("gate", 3, config.base / "windows/3")
    unused: Any = None
    request = SearchRequest(round=1, windows=[window], inspection=unused)
    return build_search_config(config, Workspace(config.out_folder), request)


@pytest.fixture
def data(weights: Weights) -> dict[str, Any]:
    return with_changes(config_data(weights), {"frames": {"folder": "in", "stride": 2}})


def test_a_window_is_a_further_part(tmp_path: Path, data: dict[str, Any]) -> None:
    parts = search_config(load_config(write_config(tmp_path, data))).frames.parts
    assert parts is not None
    assert [(part.folder, part.stride) for part in parts] == [("in", 2), ("windows/3", 1)]


def test_the_share_of_damaged_images_is_that_of_the_watch(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    plain = load_config(write_config(tmp_path, data))
    assert "unreadable" not in search_config(plain).as_written()["frames"]
    lenient = load_config(write_config(tmp_path, with_changes(data, {"frames.unreadable": 0.25})))
    assert search_config(lenient).frames.unreadable == 0.25
