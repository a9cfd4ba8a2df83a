"""Fixtures for `tiny` and `labelled`; tests/conftest.py loads them as a plugin."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from labelled import FinishedComparison, Labelled, build_labelled, run_comparison
from made_up_precisions import with_mixed_precisions
from safetensors.torch import save_file
from tiny import (
    CLASSIFIER,
    DETECTOR,
    SPLIT_SECTION,
    FinishedRun,
    Weights,
    config_data,
    load_tiny,
    observe,
    random_network,
    run_config,
    with_changes,
    write_config,
)

from search.pipelines.split.run import split_plans
from search.results.search_result import Result
from search.statistics.observed import Observed
from search.tracking.target import Target
from spaces.bundle import read_bundle_contents


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Return (architecture, seed) -> a file of random weights for the classes of the scenes."""
    folder = tmp_path_factory.mktemp("weights")

    @cache
    def write_weights(arch: str, seed: int) -> Path:
        path = folder / f"{arch.replace('/', '-')}-{seed}.safetensors"
        save_file(random_network(arch, seed).state_dict(), path)
        return path

    return write_weights


@pytest.fixture(scope="session")
def pair(weights: Weights) -> Observed:
    """Two classifiers with different weights."""
    return observe(load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 2)}))


@pytest.fixture(scope="session")
def copies(weights: Weights) -> Observed:
    """Two copies of one classifier."""
    return observe(load_tiny(weights, {"a": (CLASSIFIER, 1), "b": (CLASSIFIER, 1)}))


@pytest.fixture(scope="session")
def mixed(weights: Weights) -> Observed:
    """A classifier and a detector."""
    return observe(load_tiny(weights, {"cls": (CLASSIFIER, 1), "det": (DETECTOR, 3)}), count=28)


@pytest.fixture(scope="session")
def tiny_run(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One complete run of the tiny config, for all tests that only read its outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("tiny-run")
        return run_config(write_config(folder, config_data(weights)))


@pytest.fixture(scope="session")
def tiny_split(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One complete split of the unmerged models and of a plan of the tiny run."""
    folder = tmp_path_factory.mktemp("tiny-split")
    shutil.copytree(tiny_run.config.base, folder, dirs_exist_ok=True)
    data = yaml.safe_load(tiny_run.path.read_text(encoding="utf-8")) | {"split": SPLIT_SECTION}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return run_config(write_config(folder, data), work=split_plans)


@pytest.fixture(scope="session")
def precise_run(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One complete run whose plans store weights in several precisions."""
    changes = {"budget": "40%", "search.precision": ["float32", "float16", "int8"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("precise-run")
        return run_config(write_config(folder, with_changes(config_data(weights), changes)))


@pytest.fixture(scope="session")
def mixed_result(precise_run: FinishedRun) -> Result:
    """The result of that run, with candidates in which each stage has another precision."""
    contents = read_bundle_contents(precise_run.out / "bundle")
    return with_mixed_precisions(precise_run.result, contents.facts)


@pytest.fixture
def data(weights: Weights) -> dict[str, Any]:
    """Return a config that is quick enough to run several times in a test."""
    changes = {"search.trials": 12, "verify.shortlist": 3, "verify.candidates": 2}
    return with_changes(config_data(weights), changes)


@pytest.fixture(scope="session")
def labelled(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Two classifiers and pictures that both classify right; all runs share the cache."""
    return build_labelled(weights, tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def tiny_comparison(labelled: Labelled) -> FinishedComparison:
    """One complete metric comparison, for all tests that only read its outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return run_comparison(labelled, labelled.labels)


@pytest.fixture
def local(tiny_run: FinishedRun, tmp_path: Path) -> Target:
    """Return a separate sqlite store: a copy, since MLflow takes seconds to create one."""
    store = shutil.copy(tiny_run.config.base / "out" / "mlflow.db", tmp_path / "mlflow.db")
    return Target(f"sqlite:///{store}", "local", (tmp_path / "artifacts").as_uri())
