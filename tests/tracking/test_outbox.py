"""MLflow away, dying in the middle, and told again: nothing is lost and nothing is there twice."""

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
from labelled import Compared
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
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def out(tiny_run: FinishedRun, tmp_path: Path) -> Path:
    """A copy of a finished run's folder, to log from."""
    copied = tmp_path / "out"
    copied.mkdir()
    beside = [path for pattern in LOGGED_FILES for path in tiny_run.out.glob(pattern)]
    for path in (tiny_run.out / "result.json", *beside):
        shutil.copy(path, copied)
    shutil.copytree(tiny_run.out / "bundle", copied / "bundle")
    return copied


def nobody(credentials: str = "") -> Target:
    return Target(f"http://{credentials}127.0.0.1:{free_port()}", "nobody", None)


def rerun(result: Result, seed: int, out: Path) -> Result:
    """What another run would leave in OUT in place of what lies there."""
    other = replace(result, seed=seed, created=f"2030-01-0{seed}T00:00:00+00:00")
    write_record(out / "result.json", other)
    (out / "front.svg").write_bytes(b"picture of run %d" % seed)
    return other


def kept(out: Path) -> list[Path]:
    return sorted((out / "unlogged").glob("*"))


@dataclass(frozen=True)
class Held:
    """What can be seen of one experiment."""

    client: MlflowClient
    runs: list[Run]

    @classmethod
    def of(cls, target: Target) -> Held:
        client = MlflowClient(tracking_uri=target.uri)
        known = client.get_experiment_by_name(target.experiment)
        assert known is not None
        return cls(client, list(client.search_runs([known.experiment_id])))

    @property
    def models(self) -> list[LoggedModel]:
        places = {run.info.experiment_id for run in self.runs}
        return list(self.client.search_logged_models([*places]))

    @property
    def parents(self) -> list[Run]:
        return [run for run in self.runs if PARENT_TAG not in run.data.tags]

    def children(self, parent: Run) -> list[Run]:
        mine = parent.info.run_id
        return [run for run in self.runs if run.data.tags.get(PARENT_TAG) == mine]

    def told(self, run: Run) -> dict[str, Any]:
        """All that a run says, but for its name in the store; every point of every metric."""
        tags = {k: v for k, v in run.data.tags.items() if k != PARENT_TAG}
        points = {
            name: [(p.step, p.value, p.timestamp) for p in self._history(run, name)]
            for name in run.data.metrics
        }
        dates = (run.info.status, run.info.start_time, run.info.end_time)
        return {"tags": tags, "params": run.data.params, "points": points, "dates": dates}

    def story(self, parent: Run) -> list[dict[str, Any]]:
        """A parent, then its children in an order of their own."""
        children = [self.told(child) for child in self.children(parent)]
        return [self.told(parent), *sorted(children, key=lambda told: str(told["tags"]))]

    def files(self, run: Run) -> dict[str, bytes]:
        folder = Path(self.client.download_artifacts(run.info.run_id, ""))
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    def _history(self, run: Run, name: str) -> list[Any]:
        return list(self.client.get_metric_history(run.info.run_id, name))


def assert_all_is_there_once(target: Target, results: list[Result]) -> None:
    """Finished parents, one for each result, and nothing beside them and their own children."""
    held = Held.of(target)
    by_seed = {parent.data.params["seed"]: parent for parent in held.parents}
    assert len(held.models) == sum(result.bundle is not None for result in results)
    assert {str(model.status) for model in held.models} <= {"READY"}
    assert len(held.parents) == len(results) == len(by_seed)
    assert len(held.runs) == sum(len(result.candidates) + 2 for result in results)
    for result in results:
        parent = by_seed[str(result.seed)]
        children = held.children(parent)
        assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
        plans = sorted(str(run.data.tags.get("merge_search.plan")) for run in children)
        assert plans == sorted([*(c.hash for c in result.candidates), SharePlan().hash])
        story = held.story(parent)
        progress = story[0]["points"].pop("hypervolume")
        assert [p[:2] for p in progress] == list(enumerate(result.study["hypervolume"]))
        for told in story:
            points = {k: v for k, v in told["points"].items() if not k.startswith("system/")}
            assert {len(found) for found in points.values()} == {1}


def call_sync(out: Path) -> tuple[int, list[str], str]:
    answer = CliRunner().invoke(main, ["sync", str(out)])
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    return answer.exit_code, answer.stdout.splitlines(), answer.stderr


def created(server: Server, target: Target, count: int) -> Callable[[], bool]:
    """Whether that many runs of the target's experiment stand in the server's own store."""
    query = (
        "select count(*) from runs join experiments using (experiment_id) "
        "where experiments.name = ? and runs.lifecycle_stage = 'active'"
    )

    def reached() -> bool:
        with closing(sqlite3.connect(f"file:{server.store}?mode=ro", uri=True)) as store:
            (found,) = store.execute(query, [target.experiment]).fetchone()
        return bool(found >= count)

    return reached


def test_a_server_that_was_away_gets_all_that_it_missed(
    tiny_run: FinishedRun, out: Path, only_server: Server
) -> None:
    server = only_server
    server.kill()
    target, results = Target(server.uri, "away", None), []
    for seed in (5, 4):
        results.append(rerun(tiny_run.result, seed, out))
        with pytest.raises(NotLogged) as caught:
            log_or_queue(results[-1], out, target)
        assert f"merge-search sync {out}" in str(caught.value) and caught.value.exit_code == 3
    assert len(kept(out)) == 2
    assert call_sync(out)[0] == 1 and len(kept(out)) == 2
    server.start()
    code, said, _ = call_sync(out)
    assert code == 0 and len(said) == 2 and not (out / "unlogged").exists()
    assert "2030-01-04" in said[0] and "2030-01-05" in said[1]  # the oldest goes first
    assert_all_is_there_once(target, results)
    held = Held.of(target)
    for parent in held.parents:
        files, drawn = held.files(parent), f"picture of run {parent.data.params['seed']}"
        assert files["pictures/front.svg"] == drawn.encode()
        assert load_record(Result, files["result.json"], "result.json") in results
    (again,) = call_sync(out)[1]
    assert "logged before" in again
    assert_all_is_there_once(target, results)


@pytest.mark.parametrize("count", [2, 4])
def test_a_server_that_is_killed_in_the_middle_has_all_of_it_once_in_the_end(
    tiny_run: FinishedRun, out: Path, server: Server, count: int
) -> None:
    target = Target(server.uri, f"killed at {count}", None)
    with as_soon_as(created(server, target, count), server.kill), pytest.raises(NotLogged):
        log_or_queue(tiny_run.result, out, target)
    (waiting,) = kept(out)
    assert waiting.name == content_id((out / "result.json").read_bytes())
    server.start()
    remains = Held.of(target)
    assert len(remains.runs) >= count
    assert [run.info.status for run in remains.parents] == ["RUNNING"]
    assert call_sync(out)[0] == 0
    assert_all_is_there_once(target, [tiny_run.result])
    assert not (out / "unlogged").exists()


def test_a_client_that_is_killed_in_the_middle_loses_nothing(
    tiny_run: FinishedRun, out: Path, server: Server
) -> None:
    target = Target(server.uri, "client killed", None)
    write_target(target, out)
    script = "from search.cli.main import main; main()"
    command = [sys.executable, "-c", script, "sync", str(out)]
    with subprocess.Popen(command, start_new_session=True) as client:
        with as_soon_as(created(server, target, 3), lambda: os.killpg(client.pid, signal.SIGKILL)):
            assert client.wait(600) == -signal.SIGKILL
    assert len(kept(out)) == 1
    later = rerun(tiny_run.result, 7, out)  # what was killed is no more in OUT itself
    assert call_sync(out)[0] == 0
    assert_all_is_there_once(target, [tiny_run.result, later])


def test_a_replay_tells_what_was_told_first(
    tiny_run: FinishedRun, out: Path, local: Target
) -> None:
    with pytest.raises(NotLogged):
        log_or_queue(tiny_run.result, out, nobody())
    log_document(tiny_run.result, kept(out)[0], local)
    first, second = Held.of(replace(local, experiment="merge-search")), Held.of(local)
    (replayed,) = second.parents
    same = replayed.data.tags[RESULT_TAG]
    (logged,) = [run for run in first.parents if run.data.tags.get(RESULT_TAG) == same]
    assert first.story(logged) == second.story(replayed)


def test_logging_again_logs_nothing(tiny_run: FinishedRun, out: Path, local: Target) -> None:
    said = log_document(tiny_run.result, out, local)
    again = log_or_queue(tiny_run.result, out, local)
    whole, version = said.partition(": 1 parent")[0], said.rpartition(";")[2]
    assert again == f"{whole}: logged before;{version}"
    assert_all_is_there_once(local, [tiny_run.result])
    assert not (out / "unlogged").exists()


def test_what_a_server_did_twice_is_there_once(
    tiny_run: FinishedRun, out: Path, local: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = MlflowClient.create_run

    def twice(*args: Any, **named: Any) -> Run:  # its first answer was lost, so it was asked again
        once(*args, **named)
        return once(*args, **named)

    monkeypatch.setattr(MlflowClient, "create_run", twice)
    log_document(tiny_run.result, out, local)
    assert_all_is_there_once(local, [tiny_run.result])


def test_runs_of_others_stay_as_they_are(tiny_run: FinishedRun, out: Path, local: Target) -> None:
    log_document(tiny_run.result, out, local)
    held = Held.of(local)
    theirs = held.client.create_run(held.parents[0].info.experiment_id, tags={RESULT_TAG: "other"})
    log_document(rerun(tiny_run.result, 4, out), out, local)
    assert theirs.info.run_id in {run.info.run_id for run in Held.of(local).runs}
    assert len(Held.of(local).parents) == 3


def test_what_is_damaged_is_named_and_stops_nothing_else(
    tiny_run: FinishedRun, out: Path, local: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {}
    for seed in (3, 4, 5):
        result = rerun(tiny_run.result, seed, out)
        with pytest.raises(NotLogged):
            log_or_queue(result, out, nobody())
        results[content_id((out / "result.json").read_bytes())] = result
    cut, changed, whole = kept(out)
    (cut / "result.json").write_text('{"schema":')
    (changed / "result.json").write_text((whole / "result.json").read_text())
    (out / "result.json").write_text("{}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.uri)
    code, said, complaint = call_sync(out)
    assert code == 1 and len(said) == 1 and complaint.startswith("merge-search: ")
    for path in (cut, changed, out):
        assert str(path / "result.json") in complaint
    assert str(whole) not in complaint and kept(out) == [cut, changed]
    assert_all_is_there_once(replace(local, experiment="nobody"), [results[whole.name]])
    assert (
        Held.of(replace(local, experiment="nobody"))
        .runs[0]
        .info.artifact_uri.startswith((out / "mlartifacts").as_uri())
    )


def test_a_run_that_died_before_it_was_logged_is_logged(
    tiny_run: FinishedRun, out: Path, local: Target
) -> None:
    write_target(local, out)
    (said,) = sync(out)
    assert f"tiny of {tiny_run.result.created}" in said and "1 parent" in said
    assert_all_is_there_once(local, [tiny_run.result])


def test_a_league_waits_and_is_replayed_too(
    tiny_league: Compared, tmp_path: Path, local: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "league"
    shutil.copytree(tiny_league.out, out / "correlate")
    with pytest.raises(NotLogged, match="merge-search sync"):
        log_or_queue(tiny_league.league, out, nobody())
    shutil.rmtree(out / "correlate")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.uri)
    assert call_sync(out)[0] == 0 and not (out / "unlogged").exists()
    held = Held.of(replace(local, experiment="nobody"))
    (run,) = held.runs
    assert run.info.status == "FINISHED"
    wanted = {"league.json", "guides.csv", "guides.json", "config.yaml", "pictures/points.png"}
    assert wanted <= set(held.files(run))


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: (path / "unlogged").mkdir(parents=True),
                                  lambda path: None])  # fmt: skip
def test_a_folder_without_runs_is_told_in_a_sentence(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "none")
    code, said, complaint = call_sync(tmp_path / "none")
    assert (code, said) == (1, [])
    assert complaint.splitlines() == [
        f"merge-search: {tmp_path / 'none'}: nothing to log: no result.json and no unlogged/"
    ]


@pytest.mark.parametrize("text", [None, "{", "[]", '{"uri": "sqlite:///x.db"}'])
def test_a_folder_that_does_not_say_where_its_runs_go_is_told_in_a_sentence(
    out: Path, text: str | None
) -> None:
    if text is not None:
        (out / "tracking.json").write_text(text)
    code, _, complaint = call_sync(out)
    assert code == 1 and len(complaint.splitlines()) == 1
    assert f"{out / 'tracking.json'}: " in complaint and "says where runs are logged" in complaint


def test_credentials_are_never_written_down(tiny_run: FinishedRun, out: Path) -> None:
    target = nobody(f"me:{SECRET}@")
    with pytest.raises(NotLogged) as caught:
        log_or_queue(tiny_run.result, out, target)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"tracking.json", "result.json"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert read_target(out).uri == target.uri.replace(f"me:{SECRET}@", "")
    code, _, complaint = call_sync(out)
    assert code == 1 and SECRET not in complaint + str(caught.value)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        assert name in complaint


def test_the_environment_goes_before_what_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, artifacts = nobody(), (tmp_path / "mlartifacts").as_uri()
    write_target(server, tmp_path)
    assert read_target(tmp_path) == server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////data/x.db")
    assert read_target(tmp_path) == Target("sqlite:////data/x.db", "nobody", artifacts)
    write_target(read_target(tmp_path), tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://elsewhere")
    assert read_target(tmp_path) == Target("https://elsewhere", "nobody", None)


def test_a_store_named_from_where_the_user_stood_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_target(Target("sqlite:///mine.db", "x", "file:///artifacts"), tmp_path)
    assert read_target(tmp_path) == Target(
        f"sqlite:///{tmp_path}/mine.db", "x", "file:///artifacts"
    )
