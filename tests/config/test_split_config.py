"""The config section `split`: defaults, limits in words, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import config_data, with_changes, write_config

from search.config.base import BadConfig
from search.config.loading import load_config
from search.config.run import RunConfig
from search.config.split import SplitConfig, count_macs

REFUSED = [
    ("link.mbit", 0, "split.link.mbit: must be greater than 0"),
    ("link.loss", 1, "split.link.loss: must be less than 1"),
    ("device.speed", -1, "split.device.speed: must be greater than 0"),
    ("device.memory", "8 XB", "split.device.memory"),
    ("device.memory", "140%", "at most 100%"),
    ("device.macs", "8 MB", "60% of the unmerged MACs"),
    ("device.macs", 0.5, "60% of the unmerged MACs"),
    ("device.precision", [], "1 or more entries"),
    ("device.precision", ["int8", "int8"], "name each precision once"),
    ("device.precision", ["int4"], "'int4'"),
    ("frames", 1, "must be 2 or greater"),
    ("weight", "loss", "'answer' or 'none'"),
    ("verify", 0, "must be 1 or greater"),
    ("against.pictures", ["gif"], "'gif'"),
    ("against.qualities", [0], "must be 1 or greater"),
    ("against.qualities", [5, 5], "name each once"),
    ("lnik", {}, "is link meant?"),
]


@pytest.fixture
def data(weights: Any) -> dict[str, Any]:
    return config_data(weights)


def load(folder: Path, data: dict[str, Any]) -> RunConfig:
    return load_config(write_config(folder, data))


@pytest.mark.parametrize(("key", "value", "words"), REFUSED)
def test_impossible_values_are_refused(
    data: dict[str, Any], tmp_path: Path, key: str, value: Any, words: str
) -> None:
    with pytest.raises(BadConfig) as caught:
        load(tmp_path, with_changes(data | {"split": {}}, {f"split.{key}": value}))
    assert words in str(caught.value)


def test_an_empty_section_takes_the_defaults(data: dict[str, Any], tmp_path: Path) -> None:
    config = load(tmp_path, data | {"split": {}})
    assert config.split == SplitConfig()
    assert config.split.device.precision == ["float32", "int8"]


def test_a_config_without_the_section_is_written_as_before(
    data: dict[str, Any], tmp_path: Path
) -> None:
    written = load(tmp_path, data).as_written()
    assert "split" not in written
    with_split = load(tmp_path, data | {"split": {"trials": 7}}).as_written()
    section = with_split.pop("split")
    assert with_split == written and section["trials"] == 7
    assert RunConfig(**with_split, split=section).split == SplitConfig(trials=7)


def test_a_split_needs_neither_budget_nor_floor_but_a_search_does(
    data: dict[str, Any], tmp_path: Path
) -> None:
    del data["budget"]
    config = load(tmp_path, data | {"split": {}})
    with pytest.raises(BadConfig, match="give either budget"):
        config.check_request()
    with pytest.raises(BadConfig, match="give either budget"):
        config.limits(1000)
    with pytest.raises(BadConfig, match="give either budget"):
        load(tmp_path, data | {"split": {}, "budget": "50%", "quality_floor": 0.9})


@pytest.mark.parametrize(("value", "count"), [("60%", 600), (77, 77), ("77", 77), ("0.5%", 5)])
def test_macs_are_a_share_or_a_number(value: object, count: int) -> None:
    assert count_macs(value, 1000) == count
