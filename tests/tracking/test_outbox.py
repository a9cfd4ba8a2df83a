"""MLflow is unreachable, dies or is asked again: no run is lost, and none is logged twice."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from labelled import FinishedComparison
from mlflow.entities import LoggedModel, Run
from mlflow.tracking import MlflowClient
from servers import Server, as_soon_as, free_port
from tiny import FinishedRun

from search.cli.main import main
from search.results.documents import content_id
from search.results.search_result import Result
from search.tracking.client import log_document
from search.tracking.outbox import LOGGED_FILES, NotLogged, log_or_queue, sync
from search.tracking.run_writer import PARENT_TAG, RESULT_TAG
from search.tracking.target import Target, read_target, write_target
from search.utils.records import load_record, write_record
from spaces.plan import SharePlan

SECRET = "s3cret-word"


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def out(tiny_run: FinishedRun, tmp_path: Path) -> Path:
    """Return a copy of a finished run's folder, to log from."""
    folder = tmp_path / "out"
    folder.mkdir()
    others = [path for pattern in LOGGED_FILES for path in tiny_run.out.glob(pattern)]
    for path in (tiny_run.out / "result.json", *others):
        shutil.copy(path, folder)
    shutil.copytree(tiny_run.out / "bundle", folder / "bundle")
    return folder


def unreachable_target(credentials: str = "") -> Target:
    return Target(f"http://{credentials}127.0.0.1:{free_port()}", "unreachable", None)


def rerun(result: Result, seed: int, out: Path) -> Result:
    """Replace the result in OUT by that of another run; return it."""
    other = replace(result, seed=seed, created=f"2030-01-0{seed}T00:00:00+00:00")
    write_record(out / "result.json", other)
    (out / "front.svg").write_bytes(b"picture of run %d" % seed)
    return other


def queued_folders(out: Path) -> list[Path]:
    return sorted((out / "unlogged").glob("*"))


@dataclass(frozen=True)
class LoggedExperiment:
    """The runs and models of one experiment."""

    client: MlflowClient
    runs: list[Run]

    @classmethod
    def of(cls, target: Target) -> LoggedExperiment:
        client = MlflowClient(tracking_uri=target.uri)
        mlflow_experiment = client.get_experiment_by_name(target.experiment)
        assert mlflow_experiment is not None
        return cls(client, list(client.search_runs([mlflow_experiment.experiment_id])))

    @property
    def models(self) -> list[LoggedModel]:
        experiments = {run.info.experiment_id for run in self.runs}
        return list(self.client.search_logged_models([*experiments]))

    @property
    def parents(self) -> list[Run]:
        return [run for run in self.runs if PARENT_TAG not in run.data.tags]

    def children(self, parent: Run) -> list[Run]:
        parent_id = parent.info.run_id
        return [run for run in self.runs if run.data.tags.get(PARENT_TAG) == parent_id]

    def fields(self, run: Run) -> dict[str, Any]:
        """Return tags, parameters, dates and all metric points of a run, but not its identity."""
        tags = {k: v for k, v in run.data.tags.items() if k != PARENT_TAG}
        points = {
            name: [(p.step, p.value, p.timestamp) for p in self._history(run, name)]
            for name in run.data.metrics
        }
        dates = (run.info.status, run.info.start_time, run.info.end_time)
        return {"tags": tags, "params": run.data.params, "points": points, "dates": dates}

    def family(self, parent: Run) -> list[dict[str, Any]]:
        """Return the fields of a parent, then of its children in the order of their tags."""
        children = [self.fields(child) for child in self.children(parent)]
        return [self.fields(parent), *sorted(children, key=lambda fields: str(fields["tags"]))]

    def files(self, run: Run) -> dict[str, bytes]:
        folder = Path(self.client.download_artifacts(run.info.run_id, ""))
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    def _history(self, run: Run, name: str) -> list[Any]:
        return list(self.client.get_metric_history(run.info.run_id, name))


def assert_logged_once(target: Target, results: list[Result]) -> None:
    """Assert that each result has one finished parent, and that no other runs exist."""
    experiment = LoggedExperiment.of(target)
    by_seed = {parent.data.params["seed"]: parent for parent in experiment.parents}
    assert len(experiment.models) == sum(result.bundle is not None for result in results)
    assert {str(model.status) for model in experiment.models} <= {"READY"}
    assert len(experiment.parents) == len(results) == len(by_seed)
    assert len(experiment.runs) == sum(len(result.candidates) + 2 for result in results)
    for result in results:
        parent = by_seed[str(result.seed)]
        children = experiment.children(parent)
        assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
        plans = sorted(str(run.data.tags.get("merge_search.plan")) for run in children)
        assert plans == sorted([*(c.hash for c in result.candidates), SharePlan().hash])
        family = experiment.family(parent)
        progress = family[0]["points"].pop("hypervolume")
        assert [p[:2] for p in progress] == list(enumerate(result.study["hypervolume"]))
        for fields in family:
            points = {k: v for k, v in fields["points"].items() if not k.startswith("system/")}
            assert {len(values) for values in points.values()} == {1}


def call_sync(out: Path) -> tuple[int, list[str], str]:
    result = CliRunner().invoke(main, ["sync", str(out)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout.splitlines(), result.stderr


def runs_exist(server: Server, target: Target, count: int) -> Callable[[], bool]:
    """Return a condition: the server's store holds that many runs of the experiment."""
    query = (
        "select count(*) from runs join experiments using (experiment_id) "
        "where experiments.name = ? and runs.lifecycle_stage = 'active'"
    )

    def reached() -> bool:
        with closing(sqlite3.connect(f"file:{server.store}?mode=ro", uri=True)) as store:
            (runs,) = store.execute(query, [target.experiment]).fetchone()
        return bool(runs >= count)

    return reached


def test_sync_logs_all_runs_that_an_unreachable_server_missed(
    tiny_run: FinishedRun, out: Path, only_server: Server
) -> None:
    server = only_server
    server.kill()
    target, results = Target(server.uri, "away", None), []
    for seed in (5, 4):
        results.append(rerun(tiny_run.result, seed, out))
        with pytest.raises(NotLogged) as failure:
            log_or_queue(results[-1], out, target)
        assert f"merge-search sync {out}" in str(failure.value) and failure.value.exit_code == 3
    assert len(queued_folders(out)) == 2
    assert call_sync(out)[0] == 1 and len(queued_folders(out)) == 2
    server.start()
    code, lines, _ = call_sync(out)
    assert code == 0 and len(lines) == 2 and not (out / "unlogged").exists()
    assert "2030-01-04" in lines[0] and "2030-01-05" in lines[1]  # the oldest goes first
    assert_logged_once(target, results)
    experiment = LoggedExperiment.of(target)
    for parent in experiment.parents:
        files, picture = experiment.files(parent), f"picture of run {parent.data.params['seed']}"
        assert files["pictures/front.svg"] == picture.encode()
        assert load_record(Result, files["result.json"], "result.json") in results
    (line,) = call_sync(out)[1]
    assert "logged before" in line
    assert_logged_once(target, results)


@pytest.mark.parametrize("count", [2, 4])
def test_a_server_killed_while_logging_has_every_run_once_after_sync(
    tiny_run: FinishedRun, out: Path, server: Server, count: int
) -> None:
    target = Target(server.uri, f"killed at {count}", None)
    with as_soon_as(runs_exist(server, target, count), server.kill), pytest.raises(NotLogged):
        log_or_queue(tiny_run.result, out, target)
    (waiting,) = queued_folders(out)
    assert waiting.name == content_id((out / "result.json").read_bytes())
    server.start()
    incomplete = LoggedExperiment.of(target)
    assert len(incomplete.runs) >= count
    assert [run.info.status for run in incomplete.parents] == ["RUNNING"]
    assert call_sync(out)[0] == 0
    assert_logged_once(target, [tiny_run.result])
    assert not (out / "unlogged").exists()


def test_a_client_killed_while_logging_loses_nothing(
    tiny_run: FinishedRun, out: Path, server: Server
) -> None:
    target = Target(server.uri, "client killed", None)
    write_target(target, out)
    script = "from search.cli.main import main; main()"
    command = [sys.executable, "-c", script, "sync", str(out)]
    with subprocess.Popen(command, start_new_session=True) as client:
        with as_soon_as(
            runs_exist(server, target, 3), lambda: os.killpg(client.pid, signal.SIGKILL)
        ):
            assert client.wait(600) == -signal.SIGKILL
    assert len(queued_folders(out)) == 1
    later = rerun(tiny_run.result, 7, out)  # OUT itself no longer holds the interrupted result
    assert call_sync(out)[0] == 0
    assert_logged_once(target, [tiny_run.result, later])


def test_a_replayed_run_equals_a_run_logged_directly(
    tiny_run: FinishedRun, out: Path, local: Target
) -> None:
    with pytest.raises(NotLogged):
        log_or_queue(tiny_run.result, out, unreachable_target())
    log_document(tiny_run.result, queued_folders(out)[0], local)
    first, second = (
        LoggedExperiment.of(replace(local, experiment="merge-search")),
        LoggedExperiment.of(local),
    )
    (replayed,) = second.parents
    identity = replayed.data.tags[RESULT_TAG]
    (direct,) = [run for run in first.parents if run.data.tags.get(RESULT_TAG) == identity]
    assert first.family(direct) == second.family(replayed)


def test_logging_a_result_again_adds_nothing(
    tiny_run: FinishedRun, out: Path, local: Target
) -> None:
    message = log_document(tiny_run.result, out, local)
    repeated = log_or_queue(tiny_run.result, out, local)
    runs, version = message.partition(": 1 parent")[0], message.rpartition(";")[2]
    assert repeated == f"{runs}: logged before;{version}"
    assert_logged_once(local, [tiny_run.result])
    assert not (out / "unlogged").exists()


def test_a_run_that_the_server_created_twice_remains_once(
    tiny_run: FinishedRun, out: Path, local: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run = MlflowClient.create_run

    def create_twice(
        *args: Any, **options: Any
    ) -> Run:  # the first answer was lost, so the client repeats its request
        create_run(*args, **options)
        return create_run(*args, **options)

    monkeypatch.setattr(MlflowClient, "create_run", create_twice)
    log_document(tiny_run.result, out, local)
    assert_logged_once(local, [tiny_run.result])


def test_runs_of_other_programs_stay_unchanged(
    tiny_run: FinishedRun, out: Path, local: Target
) -> None:
    log_document(tiny_run.result, out, local)
    experiment = LoggedExperiment.of(local)
    foreign = experiment.client.create_run(
        experiment.parents[0].info.experiment_id, tags={RESULT_TAG: "other"}
    )
    log_document(rerun(tiny_run.result, 4, out), out, local)
    assert foreign.info.run_id in {run.info.run_id for run in LoggedExperiment.of(local).runs}
    assert len(LoggedExperiment.of(local).parents) == 3


def test_an_error_names_damaged_results_and_intact_ones_are_logged(
    tiny_run: FinishedRun, out: Path, local: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {}
    for seed in (3, 4, 5):
        result = rerun(tiny_run.result, seed, out)
        with pytest.raises(NotLogged):
            log_or_queue(result, out, unreachable_target())
        results[content_id((out / "result.json").read_bytes())] = result
    truncated, altered, intact = queued_folders(out)
    (truncated / "result.json").write_text('{"schema":')
    (altered / "result.json").write_text((intact / "result.json").read_text())
    (out / "result.json").write_text("{}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.uri)
    code, lines, error = call_sync(out)
    assert code == 1 and len(lines) == 1 and error.startswith("merge-search: ")
    for path in (truncated, altered, out):
        assert str(path / "result.json") in error
    assert str(intact) not in error and queued_folders(out) == [truncated, altered]
    assert_logged_once(replace(local, experiment="unreachable"), [results[intact.name]])
    assert (
        LoggedExperiment.of(replace(local, experiment="unreachable"))
        .runs[0]
        .info.artifact_uri.startswith((out / "mlartifacts").as_uri())
    )


def test_a_result_whose_run_died_before_logging_is_logged(
    tiny_run: FinishedRun, out: Path, local: Target
) -> None:
    write_target(local, out)
    (line,) = sync(out)
    assert f"tiny of {tiny_run.result.created}" in line and "1 parent" in line
    assert_logged_once(local, [tiny_run.result])


def test_a_metric_comparison_is_queued_and_replayed_too(
    tiny_comparison: FinishedComparison,
    tmp_path: Path,
    local: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "comparison"
    shutil.copytree(tiny_comparison.out, out / "correlate")
    with pytest.raises(NotLogged, match="merge-search sync"):
        log_or_queue(tiny_comparison.comparison, out, unreachable_target())
    shutil.rmtree(out / "correlate")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.uri)
    assert call_sync(out)[0] == 0 and not (out / "unlogged").exists()
    experiment = LoggedExperiment.of(replace(local, experiment="unreachable"))
    (run,) = experiment.runs
    assert run.info.status == "FINISHED"
    expected = {"league.json", "guides.csv", "guides.json", "config.yaml", "pictures/points.png"}
    assert expected <= set(experiment.files(run))


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: (path / "unlogged").mkdir(parents=True),
                                  lambda path: None])  # fmt: skip
def test_a_folder_without_runs_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "none")
    code, lines, error = call_sync(tmp_path / "none")
    assert (code, lines) == (1, [])
    assert error.splitlines() == [
        f"merge-search: {tmp_path / 'none'}: nothing to log: no result.json and no unlogged/"
    ]


@pytest.mark.parametrize("text", [None, "{", "[]", '{"uri": "sqlite:///x.db"}'])
def test_a_folder_without_a_valid_target_is_refused_in_one_line(
    out: Path, text: str | None
) -> None:
    if text is not None:
        (out / "tracking.json").write_text(text)
    code, _, error = call_sync(out)
    assert code == 1 and len(error.splitlines()) == 1
    assert f"{out / 'tracking.json'}: " in error and "says where runs are logged" in error


def test_credentials_are_never_written(tiny_run: FinishedRun, out: Path) -> None:
    target = unreachable_target(f"me:{SECRET}@")
    with pytest.raises(NotLogged) as failure:
        log_or_queue(tiny_run.result, out, target)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"tracking.json", "result.json"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert read_target(out).uri == target.uri.replace(f"me:{SECRET}@", "")
    code, _, error = call_sync(out)
    assert code == 1 and SECRET not in error + str(failure.value)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        assert name in error


def test_the_environment_takes_precedence_over_the_stored_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, artifacts = unreachable_target(), (tmp_path / "mlartifacts").as_uri()
    write_target(server, tmp_path)
    assert read_target(tmp_path) == server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////data/x.db")
    assert read_target(tmp_path) == Target("sqlite:////data/x.db", "unreachable", artifacts)
    write_target(read_target(tmp_path), tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://elsewhere")
    assert read_target(tmp_path) == Target("https://elsewhere", "unreachable", None)


def test_a_relative_store_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_target(Target("sqlite:///mine.db", "x", "file:///artifacts"), tmp_path)
    assert read_target(tmp_path) == Target(
        f"sqlite:///{tmp_path}/mine.db", "x", "file:///artifacts"
    )
