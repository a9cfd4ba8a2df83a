"""Statistics in shards and on disk: the sum of all shards equals a single pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from tiny import (
    CLASSIFIER,
    STREET,
    Weights,
    capture_reporter,
    config_data,
    load_tiny,
    with_changes,
    write_config,
)

from search.cli.main import main
from search.config.loading import load_config
from search.config.run import RunConfig
from search.data.frames import BadFrames, RenderedScenes
from search.pipelines.deployment.load import load_deployment
from search.pipelines.open_data import open_frame_set
from search.pipelines.prepare import observe
from search.statistics.observed import Observed
from search.statistics.rows import GridRows
from search.statistics.similarity import Statistics
from search.statistics.storage import (
    FORMAT_NAME,
    BadStatistics,
    StoredMoments,
    read_moments,
    write_moments,
)
from search.statistics.streaming import (
    ALL_BATCHES,
    Moments,
    PassSettings,
    Shard,
    accumulate_moments,
)
from spaces.model_facts import collect_facts
from spaces.shares import find_pairs


def stats(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["stats", *map(str, args)], prog_name="merge-search")


def error_of(*args: str | Path) -> str:
    result = stats(*args)
    assert result.exit_code == 1
    assert result.stderr.startswith("merge-search: ") and result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def config(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a config whose 28 frames are three and a half batches."""
    data = with_changes(config_data(weights), {"frames.count": 40, "cache": "cache"})
    return write_config(tmp_path_factory.mktemp("stats"), data)


@pytest.fixture(scope="module")
def parts(config: Path) -> list[Path]:
    """Return the files of all three shards."""
    for number in (1, 2, 3):
        assert stats(config, "--shard", f"{number}/3").exit_code == 0
    return sorted((load_config(config).out_folder / "stats").iterdir())


def observe_config(config: RunConfig) -> tuple[Observed, str]:
    """Observe as a run of the config does; return the printed text, too."""
    captured = capture_reporter()
    deployment = load_deployment(config, captured.reporter)
    observed = observe(config, deployment, open_frame_set(config), captured.reporter)
    return observed, captured.text


def test_the_sum_of_the_shards_equals_a_single_pass(
    config: Path, parts: list[Path], tmp_path: Path
) -> None:
    result = stats("merge", config)
    assert result.exit_code == 0, result.stderr
    summed, text = observe_config(load_config(config))
    assert "cached" in text
    single, text = observe_config(load_config(config, [f"cache={tmp_path}"]))
    assert "cached" not in text
    assert summed.statistics.moments.frames == single.statistics.moments.frames == 28
    grids = summed.statistics.moments.grids
    assert all(equal_rows(grids[g], single.statistics.moments.grids[g]) for g in grids)
    for pair in single.deployment.pairs.legal:
        left, right = summed.statistics, single.statistics
        assert left.image_cka(pair) == pytest.approx(right.image_cka(pair), abs=1e-6)
        assert left.position_cka(pair) == pytest.approx(right.position_cka(pair), abs=1e-6)
        assert left.ridge(pair).explained == pytest.approx(right.ridge(pair).explained, abs=1e-6)


def test_the_shards_share_the_batches_evenly(parts: list[Path]) -> None:
    shards = [read_moments(path) for path in parts]
    assert [s.shard for s in shards] == [Shard(1, 3), Shard(2, 3), Shard(3, 3)]
    assert [s.moments.frames for s in shards] == [12, 8, 8]
    assert len({s.key for s in shards}) == 1


def test_a_missing_shard_is_named(config: Path, parts: list[Path]) -> None:
    assert "missing of the shards: 2/3" in error_of("merge", config, parts[0], parts[2])
    assert "missing of the shards: 1/3, 3/3" in error_of("merge", config, parts[1])


def test_a_duplicate_shard_is_refused(config: Path, parts: list[Path]) -> None:
    message = error_of("merge", config, *parts, parts[0])
    assert str(parts[0]) in message and "give each shard once" in message


def test_shards_of_different_counts_do_not_mix(config: Path, parts: list[Path]) -> None:
    other = parts[0].parent.parent / "two.safetensors"
    stored = read_moments(parts[0])
    write_moments(other, StoredMoments(stored.moments, stored.key, Shard(2, 2)))
    assert "must be of one number of shards" in error_of("merge", config, parts[0], other)


@pytest.mark.parametrize(
    "change", ["seed=4", "statistics.positions=3", "frames.scenes.seed=9", "models.a.size=96"]
)
def test_shards_of_another_config_are_refused(
    config: Path, parts: list[Path], change: str
) -> None:
    message = error_of("merge", config, *parts, "--set", change)
    assert str(parts[0]) in message and "is not of this config" in message


def test_without_shards_there_is_nothing_to_merge(config: Path, tmp_path: Path) -> None:
    assert "there are no shards in" in error_of("merge", config, "--set", f"out={tmp_path}")


# Frames in parts.

DAY: dict[str, Any] = {"scenes": {"seed": 1}, "count": 40}
WINDOWS: list[dict[str, Any]] = [
    {"scenes": {"seed": 4, "night": 1.0}, "count": 12},
    {"scenes": {"seed": 6}, "count": 30},
]
"""28, 9 and 23 frames are used: four, one and three batches."""


@pytest.fixture(scope="module")
def in_parts(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a config of frames in parts, and measure three shards of their statistics."""
    changes = {"frames": {"parts": [DAY, *WINDOWS]}, "cache": "cache"}
    path = write_config(
        tmp_path_factory.mktemp("parts"), with_changes(config_data(weights), changes)
    )
    for number in (1, 2, 3):
        assert stats(path, "--shard", f"{number}/3").exit_code == 0
    return path


def shards_of(config: Path) -> list[Path]:
    return sorted((load_config(config).out_folder / "stats").iterdir())


def test_shards_share_the_batches_of_all_parts_evenly(in_parts: Path) -> None:
    files = {path.name.removesuffix(".safetensors"): path for path in shards_of(in_parts)}
    frames = {name: read_moments(path).moments.frames for name, path in files.items()}
    assert frames == {
        "1-of-3.part-1": 12, "1-of-3.part-3": 8,
        "2-of-3.part-1": 8, "2-of-3.part-2": 8, "2-of-3.part-3": 7,
        "3-of-3.part-1": 8, "3-of-3.part-3": 8,
    }  # fmt: skip


def test_the_sum_of_the_shards_of_parts_equals_a_single_pass(
    in_parts: Path, tmp_path: Path
) -> None:
    result = stats("merge", in_parts)
    assert result.exit_code == 0, result.stderr
    summed, text = observe_config(load_config(in_parts))
    assert text.count("cached") == 3
    single, _ = observe_config(load_config(in_parts, [f"cache={tmp_path}"]))
    assert equal_moments_up_to_hsic(summed.statistics.moments, single.statistics.moments)
    own_cache, other_cache = (
        sorted(path.name for path in (folder / "statistics").iterdir())
        for folder in (load_config(in_parts).cache_folder, tmp_path)
    )
    assert own_cache == other_cache


def test_a_missing_shard_of_a_part_is_named_as_it_is_measured(in_parts: Path) -> None:
    files = shards_of(in_parts)
    for missing in files:
        number = missing.name[0]
        message = error_of("merge", in_parts, *(file for file in files if file != missing))
        assert f"missing of the shards: {number}/3; measure" in message
    assert "give each shard once" in error_of("merge", in_parts, *files, files[-1])


def test_shards_of_parts_outlive_a_change_of_their_order(in_parts: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(in_parts.read_text())
    data["frames"]["parts"] = [DAY, *WINDOWS[::-1]]
    other = write_config(tmp_path, data)
    assert stats("merge", other, *shards_of(in_parts)).exit_code == 0
    data["frames"]["parts"] = [DAY, WINDOWS[1]]
    fewer = write_config(tmp_path / "fewer", data)
    assert "is not of this config" in error_of("merge", fewer, *shards_of(in_parts))


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "a/b", "1/0", "-1/2"])
def test_a_shard_is_a_number_of_a_count(config: Path, text: str) -> None:
    assert f"shard {text}: write it as K/N" in error_of(config, f"--shard={text}")


def test_more_shards_than_batches_are_refused(config: Path) -> None:
    assert "use fewer shards" in error_of(config, "--shard", "9/9")


def test_the_subcommand_measure_is_the_default(config: Path) -> None:
    assert "3/2" in error_of("measure", config, "--shard", "3/2")
    assert "3/2" in error_of("--shard", "3/2", config)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_batch_is_in_one_shard(count: int) -> None:
    batches = [range(k, k + 4) for k in range(0, 40, 4)]
    shard_batches = [b for k in range(count) for b in Shard(k + 1, count).of(batches)]
    assert sorted(shard_batches, key=lambda b: b.start) == batches


def test_an_impossible_shard_cannot_be_built() -> None:
    with pytest.raises(BadFrames, match="shard 4/3"):
        Shard(4, 3)


def equal_moments(left: Moments, right: Moments) -> bool:
    assert left.refs == right.refs and left.frames == right.frames
    assert list(left.grids) == list(right.grids)
    same = [np.array_equal(left.hsic, right.hsic)]
    for grid in left.grids:
        same.append(equal_rows(left.grids[grid], right.grids[grid]))
    return all(same)


def equal_moments_up_to_hsic(left: Moments, right: Moments) -> bool:
    """Return whether all rows are equal bit by bit, and the sums of CKA up to their order."""
    np.testing.assert_allclose(left.hsic, right.hsic, rtol=1e-12)
    return equal_moments(left, replace(right, hsic=left.hsic))


def equal_rows(left: GridRows, right: GridRows) -> bool:
    """Return whether all rows, and the blocks and pairs that they are of, are equal bit by bit."""
    assert left.pairs == right.pairs and left.blocks == right.blocks
    assert set(left.coded) == set(right.coded)
    return all(
        torch.equal(tensor, vars(right.coded[ref])[name])
        for ref, coded in left.coded.items()
        for name, tensor in vars(coded).items()
    )


def test_saved_moments_are_loaded_bit_for_bit(mixed: Observed, tmp_path: Path) -> None:
    moments, path = mixed.statistics.moments, tmp_path / "deep" / "m.safetensors"
    write_moments(path, StoredMoments(moments, "key", ALL_BATCHES))
    loaded = read_moments(path)
    assert (loaded.key, loaded.shard) == ("key", ALL_BATCHES)
    assert equal_moments(loaded.moments, moments)
    statistics = Statistics(loaded.moments, mixed.statistics.facts)
    pair = mixed.deployment.pairs.legal[5]
    assert statistics.ridge(pair) == mixed.statistics.ridge(pair)
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]


def test_moments_without_pairs_can_be_saved(weights: Weights, tmp_path: Path) -> None:

    models = load_tiny(weights, {"a": (CLASSIFIER, 1)})
    facts = collect_facts(models)
    assert not find_pairs(facts).legal
    moments = accumulate_moments(
        models, facts, [], RenderedScenes(STREET, 8), PassSettings(batch=4)
    )
    write_moments(tmp_path / "m", StoredMoments(moments, "k", ALL_BATCHES))
    assert equal_moments(read_moments(tmp_path / "m").moments, moments)


def test_a_damaged_file_is_refused_by_name(parts: list[Path], tmp_path: Path) -> None:
    content, path = parts[0].read_bytes(), tmp_path / "damaged.safetensors"
    for damaged in (b"", b"no tensors", content[:-9], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(BadStatistics, match=r"damaged\.safetensors: not a complete file"):
            read_moments(path)
    tensors = load_file(parts[0])
    save_file(tensors, path)
    with pytest.raises(BadStatistics, match="delete it"):
        read_moments(path)
    save_file(tensors, path, {FORMAT_NAME: '{"key": "k", "shard": [1, 1], "grids": []}'})
    with pytest.raises(BadStatistics, match="another version"):
        read_moments(path)
