"""Fidelity in shards: put together, it is what one process measures, to the last bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from called import call, done, error_of
from tiny import (
    Weights,
    capture_reporter,
    config_data,
    three_model_config,
    with_changes,
    write_config,
)

from search.config.loading import load_config
from search.config.run import RunConfig
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import compute_similarities, measured_shares, observe
from search.pipelines.sharding.fidelity_shards import shares_of_shard
from search.statistics.streaming import Shard
from spaces.plan import Share

DAY: dict[str, Any] = {"scenes": {"seed": 1}, "count": 20}
WINDOW: dict[str, Any] = {"scenes": {"seed": 4, "night": 1.0}, "count": 10}


def similarities_of(config: RunConfig) -> tuple[dict[Share, float], str]:
    """Compute the similarities as a run does; return the printed text, too."""
    captured = capture_reporter()
    deployment = load_deployment(config, captured.reporter)
    observed = observe(config, deployment, open_frame_set(config), captured.reporter)
    adapters = config.search.adapter_specs
    return compute_similarities(config, observed, adapters, captured.reporter), captured.text


def write_fidelity_config(weights: Weights, folder: Path, frames: dict[str, Any]) -> Path:
    changes = {"search.metric": "fidelity", "frames": frames, "verify.fidelity_frames": 4}
    return write_config(folder, with_changes(config_data(weights), changes))


def measure(config: Path, count: int) -> list[Path]:
    """Measure and sum the statistics, then measure the fidelity, in as many shards each."""
    for number in range(1, count + 1):
        done("stats", config, "--shard", f"{number}/{count}")
    done("stats", "merge", config)
    for number in range(1, count + 1):
        done("fidelity", config, "--shard", f"{number}/{count}")
    return sorted((load_config(config).out_folder / "fidelity").iterdir())


def cached_agreements(folder: Path) -> dict[str, str]:
    files = (folder / "notes").rglob("agreement-*.json")
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture(scope="module")
def config(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fidelity_config(weights, tmp_path_factory.mktemp("fidelity"), DAY)


@pytest.fixture(scope="module")
def shards(config: Path) -> list[Path]:
    """Return the files of both shards."""
    return measure(config, 2)


def assert_merging_equals_measuring(config: RunConfig, folder: Path) -> None:
    """Merge the shards of a config, and compare with what one process measures.

    `folder` is for its own cache.
    """
    assert cached_agreements(config.cache_folder) == {}
    done("fidelity", "merge", config.base / "config.yaml", "--set", f"cache={config.cache_folder}")
    joined = cached_agreements(config.cache_folder)
    values, _ = similarities_of(config)
    assert cached_agreements(config.cache_folder) == joined != {}
    single_config = load_config(config.base / "config.yaml", [f"cache={folder}"])
    single_values, _ = similarities_of(single_config)
    assert joined == cached_agreements(folder)
    assert values == single_values and 0 < max(values.values()) <= 1


def test_a_run_reads_the_joined_shards_as_its_own_measurements(
    config: Path, shards: list[Path], tmp_path: Path
) -> None:
    cache = shutil.copytree(load_config(config).cache_folder, tmp_path / "cache")
    loaded = load_config(config, [f"cache={cache}"])
    assert_merging_equals_measuring(loaded, tmp_path / "single")


def test_shards_hold_the_fidelity_on_every_part_of_the_frames(
    weights: Weights, tmp_path: Path
) -> None:
    config = write_fidelity_config(weights, tmp_path, {"parts": [DAY, WINDOW]})
    assert [path.name for path in measure(config, 2)] == ["1-of-2.json", "2-of-2.json"]
    assert_merging_equals_measuring(load_config(config), tmp_path / "single")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_share_is_in_one_shard(weights: Weights, tmp_path: Path, count: int) -> None:
    config = load_config(write_config(tmp_path, three_model_config(weights)))
    deployment = load_deployment(config, capture_reporter().reporter)
    shares = measured_shares(deployment, config.search.adapter_specs)
    own = [shares_of_shard(shares, Shard(k + 1, count)) for k in range(count)]
    assert sorted(share for shard in own for share in shard) == sorted(shares)
    assert min(map(len, own)) > 0.5 * max(map(len, own))


def test_shards_need_the_statistics_in_the_cache(config: Path, tmp_path: Path) -> None:
    message = error_of("fidelity", config, "--shard", "1/2", "--set", f"cache={tmp_path}")
    assert "not in the cache" in message and "merge-search stats" in message
    assert not (tmp_path / "statistics").exists()


@pytest.mark.parametrize("command", [("--shard", "1/2"), ("merge",)], ids=["measure", "merge"])
def test_metrics_that_measure_some_shares_only_are_refused(
    config: Path, command: tuple[str, ...]
) -> None:
    metric = ("--set", "search.metric=screened")
    assert "search.metric is screened" in error_of("fidelity", *command, config, *metric)


def test_more_shards_than_donors_are_refused(config: Path) -> None:
    assert "use fewer shards" in error_of("fidelity", config, "--shard", "1/999")


def test_shards_that_are_missing_or_come_twice_are_named(config: Path, shards: list[Path]) -> None:
    first, second = shards
    assert "missing of the shards: 2/2" in error_of("fidelity", "merge", config, first)
    twice = error_of("fidelity", "merge", config, first, second, first)
    assert f"{first} is shard 1/2" in twice and "give each shard once" in twice
    nowhere = error_of("fidelity", "merge", config, "--set", "out=nowhere")
    assert "there are no shards in" in nowhere


def test_shards_of_other_counts_or_configs_are_refused(
    config: Path, shards: list[Path], tmp_path: Path
) -> None:
    record = json.loads(shards[0].read_text())
    other = tmp_path / "3-of-3.json"
    other.write_text(json.dumps(record | {"shard": "3/3"}))
    assert "must be of one number of shards" in error_of(
        "fidelity", "merge", config, shards[0], other
    )
    for change in ("seed=4", "dtype=float16", "verify.fidelity_frames=3"):
        message = error_of("fidelity", "merge", config, *shards, "--set", change)
        assert f"{shards[0]} is not of this config" in message


def test_damaged_shards_are_refused_by_name_and_nothing_is_lost(
    config: Path, shards: list[Path], tmp_path: Path
) -> None:
    content = shards[0].read_text()
    record = json.loads(content)
    (part,) = record["parts"]
    fewer = dict([*part["sums"].items()][1:])
    damaged = tmp_path / "damaged.json"
    for text in (
        "", content[: len(content) // 2], "[]", json.dumps(record | {"shard": "3/2"}),
        json.dumps(record | {"parts": []}),
        json.dumps(record | {"parts": [{**part, "sums": fewer}]}),
        json.dumps(record | {"parts": [{**part, "frames": 1}]}),
    ):  # fmt: skip
        damaged.write_text(text)
        message = error_of("fidelity", "merge", config, damaged, shards[1])
        assert "damaged" in message
    assert shards[0].read_text() == content
    assert cached_agreements(load_config(config).cache_folder) == {}


def test_a_measured_shard_leaves_no_other_file(shards: list[Path]) -> None:
    assert [path.name for path in shards] == ["1-of-2.json", "2-of-2.json"]


def test_the_document_option_is_refused(config: Path) -> None:
    result = call("--json", "fidelity", config, "--shard", "1/2")
    assert result.exit_code == 2 and "writes no JSON document" in result.stderr
