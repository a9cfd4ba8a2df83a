"""Every name that a config accepts is one that MLflow takes, and a deleted experiment is named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import (
    _validate_experiment_name,
    _validate_logged_model_name,
    _validate_metric_name,
    _validate_model_name,
)
from pydantic import ValidationError
from tiny import FinishedRun, empty_store

from search.config.error_words import CAMERA_NAME
from search.config.run import NAME
from search.config.search import MlflowConfig
from search.tracking.client import TrackerUnreachable, check_tracker, open_registry
from search.tracking.models import logged_model_name
from search.tracking.outbox import NotLogged, log_or_queue, sync
from search.tracking.target import Target
from search.utils.records import write_record


@given(st.from_regex(NAME, fullmatch=True))
def test_mlflow_takes_every_name_of_a_run_and_of_a_model(name: str) -> None:
    _validate_model_name(name)
    _validate_logged_model_name(logged_model_name(name))
    _validate_metric_name(f"fidelity_{name}")  # type: ignore[no-untyped-call]


@given(st.from_regex(CAMERA_NAME, fullmatch=True))
def test_mlflow_takes_every_name_of_a_camera(name: str) -> None:
    _validate_metric_name(f"distance_{name}")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", ["c/1", "c:1", "c%1", "c'1", 'c"1', "..", ".c", "", "é"])
def test_a_name_that_mlflow_may_refuse_is_none(name: str) -> None:
    assert not NAME.fullmatch(name)


@given(st.text(max_size=600))
def test_mlflow_takes_every_experiment_that_a_config_accepts(name: str) -> None:
    try:
        accepted = MlflowConfig(experiment=name).experiment
    except ValidationError:
        return
    _validate_experiment_name(accepted)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 501])
def test_an_experiment_that_nobody_can_read_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        MlflowConfig(experiment=name)
    if len(name) != 1 and "\n" not in name:
        with pytest.raises(MlflowException):
            _validate_experiment_name(name)  # type: ignore[no-untyped-call]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    shutil.copy(empty_store(), tmp_path / "mlflow.db")
    artifacts = (tmp_path / "artifacts").as_uri()
    return Target(f"sqlite:///{tmp_path / 'mlflow.db'}", "street", artifacts)


@pytest.fixture
def out(tiny_run: FinishedRun, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copytree(tiny_run.out / "bundle", folder / "bundle")
    return folder


def test_a_run_whose_name_has_a_dot_is_logged_and_registered(
    tiny_run: FinishedRun, target: Target, out: Path
) -> None:
    result = replace(tiny_run.result, name="cam.1")
    write_record(out / "result.json", result)
    assert "model 'cam.1', version 1" in log_or_queue(result, out, target)
    with open_registry(target, "cam.1") as registry:
        assert registry.challenger() is not None


def test_a_deleted_experiment_is_named_with_its_cure(
    tiny_run: FinishedRun, target: Target, out: Path
) -> None:
    client = MlflowClient(tracking_uri=target.uri)
    number = client.create_experiment("street", artifact_location=target.artifacts)
    client.delete_experiment(number)
    cure = (
        rf"takes no run \(the experiment 'street' was deleted: restore it with `mlflow "
        rf"experiments restore --experiment-id {number}`, or name another: mlflow\.experiment"
    )
    with pytest.raises(TrackerUnreachable, match=cure):
        check_tracker(target)
    write_record(out / "result.json", tiny_run.result)
    with pytest.raises(NotLogged, match=cure):
        log_or_queue(tiny_run.result, out, target)
    with pytest.raises(TrackerUnreachable, match=cure):
        list(sync(out))
    client.restore_experiment(number)
    assert len(list(sync(out))) == 1
