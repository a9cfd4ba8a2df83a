"""The MLflow runs of a split: one parent, a child for each point and each way to compare."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from servers import free_port
from split_results import one_model_split
from tiny import empty_store

from search.report.split.page import write_split_page
from search.results.split_result import SPLIT_DOCUMENT, SPLIT_FOLDER, SplitResult
from search.tracking.client import log_document, pages
from search.tracking.outbox import NotLogged, log_or_queue, sync
from search.tracking.run_writer import PARENT_TAG
from search.tracking.split_runs import POINT_TAG, compared_baselines
from search.tracking.target import Target, write_target
from search.utils.records import load_record, write_record


def small_split(**changes: Any) -> SplitResult:
    """Return a result of few runs."""
    whole = one_model_split()
    kept = [*whole.baselines[2:4], *whole.baselines[-4:]]
    return replace(whole, baselines=kept, **changes)


def written(result: SplitResult, out: Path) -> Path:
    """Write a result and its page as `merge-search split` does; return OUT."""
    write_record(out / SPLIT_FOLDER / SPLIT_DOCUMENT, result)
    write_split_page(result, out / SPLIT_FOLDER)
    return out


def store_in(folder: Path) -> Target:
    """Return an empty sqlite store of its own."""
    shutil.copy(empty_store(), folder / "mlflow.db")
    return Target(f"sqlite:///{folder / 'mlflow.db'}", "splits", (folder / "artifacts").as_uri())


@dataclass(frozen=True)
class LoggedSplits:
    """The runs in an experiment."""

    client: MlflowClient
    runs: list[Run]

    @classmethod
    def of(cls, target: Target) -> LoggedSplits:
        client = MlflowClient(tracking_uri=target.uri)
        experiment = client.get_experiment_by_name(target.experiment)
        assert experiment is not None
        return cls(client, list(client.search_runs([experiment.experiment_id])))

    @property
    def parents(self) -> list[Run]:
        return [run for run in self.runs if PARENT_TAG not in run.data.tags]

    @property
    def children(self) -> list[Run]:
        return [run for run in self.runs if PARENT_TAG in run.data.tags]

    @property
    def point_runs(self) -> dict[str, Run]:
        """The runs of points, by their hash."""
        return {run.data.tags[POINT_TAG]: run for run in self.runs if POINT_TAG in run.data.tags}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A store that holds one split."""
    folder = tmp_path_factory.mktemp("splits")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store, result = store_in(folder), small_split()
        log_or_queue(result, written(result, folder / "out"), store)
        assert not (folder / "out" / "unlogged").exists()
        yield store


@pytest.fixture(scope="module")
def logged(target: Target) -> LoggedSplits:
    return LoggedSplits.of(target)


def assert_logged_once(target: Target, result: SplitResult) -> None:
    logged = LoggedSplits.of(target)
    (parent,) = logged.parents
    assert {run.info.status for run in logged.runs} == {"FINISHED"}
    assert set(logged.point_runs) == {point.hash for point in result.points}
    assert len(logged.children) == len(result.points) + len(compared_baselines(result))
    assert {run.data.tags[PARENT_TAG] for run in logged.children} == {parent.info.run_id}


def test_each_point_and_each_compared_way_is_a_child_of_one_parent(target: Target) -> None:
    assert_logged_once(target, small_split())


def test_all_children_have_the_metrics_that_they_are_compared_by(logged: LoggedSplits) -> None:
    alike = {
        "bytes", "bytes_p95", "device_macs", "device_bytes", "device_ms", "encode_ms", "link_ms",
        "decode_ms", "server_ms", "total_ms", "quality_kept", "fidelity", "top1_classifier",
        "top5_classifier", "kept_classifier", "fidelity_classifier",
    }  # fmt: skip
    own = {"device_memory", "codec_bytes", "predicted_bytes", "distortion"}
    for run in logged.children:
        assert set(run.data.metrics) == alike | (own if POINT_TAG in run.data.tags else set())
        assert run.data.params["way"] in {"split", "picture", "plain", "device", "server"}


def test_points_have_their_numbers_and_their_certainty(logged: LoggedSplits) -> None:
    result = small_split()
    for point in result.points:
        run = logged.point_runs[point.hash]
        assert run.data.metrics["bytes"] == point.bytes
        assert run.data.metrics["total_ms"] == point.times.total_ms
        assert run.data.metrics["top1_classifier"] == point.accuracy["classifier"]["top1"]
        assert run.data.metrics["device_memory"] == point.device_memory
        assert point.quality_interval is not None
        low, high = point.quality_interval
        assert run.data.params["range95_quality_kept"] == f"{low:.3f} to {high:.3f}"
        assert run.data.params["verdict_classifier"].partition(":")[0] in (
            "worse",
            "no difference",
        )
        tags = run.data.tags
        assert tags["merge_search.plan"] == point.plan
        assert tags["merge_search.split"] == point.label
        assert tags["merge_search.chosen"] == str(point.hash == result.chosen).lower()


def test_the_parent_has_the_chosen_point_and_everything_that_was_written(
    logged: LoggedSplits, tmp_path: Path
) -> None:
    result, (parent,) = small_split(), logged.parents
    assert result.chosen_point is not None
    assert parent.data.metrics["bytes"] == result.chosen_point.bytes
    assert parent.data.metrics["rank_proxy_truth"] == result.rank_agreement["proxy_truth"]
    assert parent.data.params["link_mbit"] == "2" and parent.data.params["splits"] == "31"
    assert f"**{result.chosen}**" in parent.data.tags["mlflow.note.content"]
    folder = Path(logged.client.download_artifacts(parent.info.run_id, "", str(tmp_path)))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml", "split.json", "split.html", "pictures/rates.svg", "pictures/split.svg"
    }  # fmt: skip
    assert load_record(SplitResult, (folder / "split.json").read_bytes(), "split.json") == result


def test_the_comparison_of_the_last_splits_is_one_of_the_pages(
    target: Target, logged: LoggedSplits
) -> None:
    addresses = pages(target, small_split().name, 5000)
    assert "Candidates" not in addresses
    assert all(run.info.run_id in addresses["Splits"] for run in logged.children)


def test_a_split_that_a_server_missed_is_logged_by_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result, store = small_split(), store_in(tmp_path)
    out = written(result, tmp_path / "out")
    away = Target(f"http://127.0.0.1:{free_port()}", "splits", None)
    with pytest.raises(NotLogged) as failure:
        log_or_queue(result, out, away)
    assert failure.value.exit_code == 3
    # a later split into the same folder replaces the files there
    later = written(small_split(seed=1, created="2030-01-01T00:00:00+00:00"), out)
    (queued,) = (out / "unlogged").iterdir()
    write_target(store, queued)
    write_target(replace(store, experiment="later"), out)
    first, second = sync(later)
    assert result.created in first and "2030-01-01" in second
    assert_logged_once(store, result)
    assert_logged_once(replace(store, experiment="later"), small_split())


def test_a_store_that_fails_half_way_has_each_run_once_after_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, store = small_split(), store_in(tmp_path)
    out, create_run = written(result, tmp_path / "out"), MlflowClient.create_run
    created: list[Run] = []

    def create_three(*args: Any, **options: Any) -> Run:
        if len(created) == 3:
            raise MlflowException("the disk is full")
        created.append(create_run(*args, **options))
        return created[-1]

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", create_three)
        with pytest.raises(NotLogged, match="the disk is full"):
            log_or_queue(result, out, store)
    assert [run.info.status for run in LoggedSplits.of(store).parents] == ["RUNNING"]
    (line,) = sync(out)
    assert "1 parent" in line
    assert_logged_once(store, result)
    assert "logged before" in log_document(result, out / SPLIT_FOLDER, store)


def test_a_way_that_another_of_its_kind_beats_has_no_run() -> None:
    result = one_model_split()
    compared = compared_baselines(result)
    assert {record.kind for record in compared} == {"picture", "plain", "device", "server"}
    for record in result.baselines:
        better = [
            other
            for other in compared
            if other.kind == record.kind
            and other.bytes <= record.bytes
            and other.times.total_ms <= record.times.total_ms
            and (other.quality or 0) >= (record.quality or 0)
        ]
        assert better
