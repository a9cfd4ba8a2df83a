"""A verification in shards of the frames has the numbers of one in a single process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from called import call, done, error_of
from safetensors.torch import load_file, save_file
from tiny import (
    DETECTOR,
    FinishedRun,
    Weights,
    config_data,
    run_config,
    with_changes,
    write_config,
)

from search.evaluation.stored_answers import BadAnswers, StoredAnswers
from search.results.verification import Verification
from search.statistics.streaming import Shard
from search.utils.records import read_record

DETECTOR_SECTION = {"arch": DETECTOR, "num_classes": 6, "size": 128, "fit": "squash"}
OWN_FIELDS = ("seconds", "created")
"""What differs between two verifications of the same plans on the same data."""


def verified(out: Path) -> dict[str, Any]:
    """Return the content of verified.json without what differs between two verifications."""
    document = read_record(Verification, out / "verify" / "verified.json")
    return {k: v for k, v in vars(document).items() if k not in OWN_FIELDS}


@pytest.fixture(scope="module")
def finished(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of a classifier and a detector with labels on other frames; batches of five."""
    tiny = config_data(weights)
    models = {
        "a": tiny["models"]["a"],
        "det": {**DETECTOR_SECTION, "weights": str(weights(DETECTOR, 3))},
    }
    truth = {
        "a": {"scenes": {"seed": 2}, "count": 12},
        "det": {"scenes": {"seed": 3}, "count": 8},
    }
    changes = {"models": models, "truth": truth, "search.trials": 5, "verify.batch": 5,
               "verify.shortlist": 3, "verify.candidates": 2, "budget": "99%"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("verified")
        return run_config(write_config(folder, with_changes(tiny, changes)))


@pytest.fixture(scope="module")
def shards(finished: FinishedRun) -> list[Path]:
    """Measure three shards; the detector's eight frames have batches for two of them."""
    for number in (1, 2, 3):
        done("verify", finished.out, "--shard", f"{number}/3")
    return sorted((finished.out / "verify" / "shards").iterdir())


@pytest.fixture
def out(finished: FinishedRun, shards: list[Path], tmp_path: Path) -> Path:
    """Return the folder of a copy of the run with its shards."""
    shutil.copytree(finished.config.base, tmp_path / "copied")
    return tmp_path / "copied" / finished.out.relative_to(finished.config.base)


def test_joined_shards_have_the_numbers_of_a_single_process(
    finished: FinishedRun, out: Path
) -> None:
    document = done("verify", out, "--merge", "--json").stdout
    joined = verified(out)
    assert document == (out / "verify" / "verified.json").read_text()
    done("verify", out)
    single = verified(out)
    assert joined == single
    assert joined["candidates"] == finished.result.candidates
    assert set(joined["baseline"]) == {"a", "det"}


def test_a_shard_has_whole_batches_of_every_frame_set(shards: list[Path]) -> None:
    stored = [StoredAnswers.load(path) for path in shards]
    assert [s.shard for s in stored] == [Shard(1, 3), Shard(2, 3), Shard(3, 3)]
    frames = [[len(job.frame_sizes) for job in s.jobs] for s in stored]
    assert frames == [[5, 5, 0], [5, 5, 5], [2, 2, 3]]  # fidelity, labels of a, labels of det
    assert [path.name for path in shards] == [f"{k}-of-3.safetensors" for k in (1, 2, 3)]


def test_shards_take_the_options_of_a_verification(
    out: Path, tmp_path: Path, finished: FinishedRun
) -> None:
    front = sorted(finished.result.candidates, key=lambda c: c.hash)[0].hash
    options = ["--plan", front[:8]]
    for number in (1, 2):
        done("verify", out, *options, "--shard", f"{number}/2")
    for path in (out / "verify" / "shards").glob("*-of-3*"):
        path.unlink()
    assert "is not of this verification" in error_of("verify", out, "--merge")
    done("verify", out, *options, "--merge")
    assert [c.hash for c in verified(out)["candidates"]] == [front]


def test_missing_and_repeated_shards_are_named(out: Path) -> None:
    folder = out / "verify" / "shards"
    shutil.copy(folder / "1-of-3.safetensors", folder / "copy.safetensors")
    assert "give each shard once" in error_of("verify", out, "--merge")
    (folder / "copy.safetensors").unlink()
    (folder / "2-of-3.safetensors").rename(folder / "2-of-3")
    assert "missing of the shards: 2/3" in error_of("verify", out, "--merge")
    for path in folder.iterdir():
        path.unlink()
    assert "there are no shards in" in error_of("verify", out, "--merge")
    assert not (out / "verify" / "verified.json").exists()


def test_damaged_shards_are_refused_by_name(shards: list[Path], tmp_path: Path) -> None:
    content, path = shards[0].read_bytes(), tmp_path / "damaged.safetensors"
    for damaged in (b"", b"no tensors", content[:-9], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(BadAnswers, match=r"damaged\.safetensors: not a complete file"):
            StoredAnswers.load(path)
    save_file(load_file(shards[0]), path)
    with pytest.raises(BadAnswers, match="delete it"):
        StoredAnswers.load(path)


def test_a_damaged_shard_ends_the_command_in_one_sentence(out: Path) -> None:
    path = out / "verify" / "shards" / "2-of-3.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert f"{path}: not a complete file" in error_of("verify", out, "--merge")


def test_a_shard_that_lacks_frames_is_refused(out: Path) -> None:
    path = out / "verify" / "shards" / "3-of-3.safetensors"
    stored = StoredAnswers.load(path)
    first, *others = stored.jobs
    shorter = first._replace(
        answers=[array[:-1] for array in first.answers], frame_sizes=first.frame_sizes[:-1]
    )
    replace(stored, jobs=[shorter, *others]).save(path)
    assert "do not hold the answers to all 12 frames" in error_of("verify", out, "--merge")


def test_saved_answers_are_loaded_bit_for_bit(shards: list[Path], tmp_path: Path) -> None:
    stored = StoredAnswers.load(shards[1])
    stored.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == shards[1].read_bytes()


def test_shards_need_the_statistics_of_the_search(out: Path) -> None:
    for path in (out.parents[1] / "cache" / "statistics").iterdir():
        path.unlink()
    assert "not in the cache" in error_of("verify", out, "--shard", "1/3")


def test_options_that_contradict_each_other_are_refused(out: Path) -> None:
    for options, message in (
        (["--shard", "1/2", "--merge"], "exclude each other"),
        (["--shard", "1/2", "--measured", "x.json"], "--measured goes alone"),
        (["--shard", "1/2", "--json"], "verify --shard writes no JSON document"),
    ):
        result = call("verify", out, *options)
        assert result.exit_code == 2 and message in result.stderr
    assert "write it as K/N" in error_of("verify", out, "--shard", "3/2")
    assert "use fewer shards" in error_of("verify", out, "--shard", "1/9")
