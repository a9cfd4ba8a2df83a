"""The only door to MLflow: what a command has found becomes runs, read from its result.

A search becomes a parent and children, a league of guides or a verification one run. The tracker
decides nothing and holds nothing: all it sends lies in OUT already. The store may be away or die
half way, so every run carries the identity of its result, and a parent is finished last: one that
is finished says that nothing of its result is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from search import logbook
from search.config import RunConfig, without_credentials
from search.files import CannotWrite, locked, make_folder, replacing, write_json
from search.league import League
from search.result import BUNDLE_FOLDER, CandidateRecord, Result
from search.tracking_models import Models
from search.verification import Verification
from spaces.bundle import bundle_id
from spaces.errors import MergeSearchError

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
import mlflow.store.db.utils as databases
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

ENVIRONMENT = "MLFLOW_TRACKING_URI"
STORE = "mlflow.db"
ARTIFACTS = "mlartifacts"
REMEMBERED = "tracking.json"
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
Document = Result | League | Verification
"""What a command has found, as it lies in a file."""
DOCUMENTS: dict[type[Result] | type[League] | type[Verification], str] = {
    Result: "result.json",
    League: "league.json",
    Verification: "verified.json",
}
RESULT_TAG, PARENT_TAG = "merge_search.result", "mlflow.parentRunId"
KIND_TAG, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Without it the UI opens an experiment as one of language-model traces."""
METRICS_AT_ONCE, PARAMETERS_AT_ONCE = 500, 100

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""Three tries of 10 s with 5 s between them: a silent server is given up after 35 s."""
DATABASE_TRIES = 5
"""With 0.1, 0.3, 0.7 and 1.5 s between them; MLflow's own ten take 100 s."""
QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}


class TrackerUnreachable(MergeSearchError):
    """The MLflow store or server did not take the run."""


class UnknownTarget(MergeSearchError):
    """It is not known where the runs of a folder go."""


@dataclass(frozen=True)
class Target:
    """Where runs go: a tracking URI, and where a local store keeps its artifacts."""

    uri: str
    experiment: str
    artifacts: str | None

    @classmethod
    def of(cls, config: RunConfig) -> Target:
        """The config's URI, else sqlite beside the run outputs; see `at`."""
        folder = config.base / "out"
        uri = config.mlflow.tracking_uri or f"sqlite:///{folder / STORE}"
        artifacts = (folder / ARTIFACTS).resolve().as_uri()
        target = cls.at(uri, config.mlflow.experiment, artifacts)
        if target.artifacts:
            make_folder(folder)
        return target

    @classmethod
    def at(cls, uri: str, experiment: str, artifacts: str) -> Target:
        """MLFLOW_TRACKING_URI goes before `uri`.

        A server places its artifacts itself. A database used directly would have MLflow put them
        into the folder where the user happens to stand, so they are told to go to `artifacts`.
        """
        uri = os.environ.get(ENVIRONMENT) or uri
        return cls(uri, experiment, artifacts if uri.startswith(DATABASES) else None)


def remember(target: Target, out: Path) -> None:
    """Write where runs go to OUT/tracking.json, but for the credentials; `recall` reads it."""
    held = {
        "uri": without_credentials(_anchored(target.uri)),
        "experiment": target.experiment,
        "artifacts": target.artifacts or (out / ARTIFACTS).resolve().as_uri(),
    }
    write_json(out / REMEMBERED, held)


def recall(folder: Path) -> Target:
    """Where runs go by the folder's tracking.json; MLFLOW_TRACKING_URI goes before it.

    Raises:
        UnknownTarget: the file is missing or damaged.
    """
    path = folder / REMEMBERED
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return Target.at(str(held["uri"]), str(held["experiment"]), str(held["artifacts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownTarget(
            f"{path} does not say where runs go ({type(error).__name__}: {error}); "
            "every run writes it when it starts"
        ) from error


def identity(content: bytes) -> str:
    """What tells a result from all others: twelve digits of the SHA-256 of its file's content."""
    return hashlib.sha256(content).hexdigest()[:12]


def record(outcome: Document, folder: Path, target: Target) -> str:
    """Log a result, unless all of it is there; returns a sentence that says where it is.

    `folder` holds its document and its pictures. What an interrupted logging of the same result
    has left is removed first.

    Raises:
        TrackerUnreachable: the store did not take it. The folder holds everything all the same.
    """
    with _speaking_for_mlflow(target, folder):
        _make_file(target)
        shelf = _Shelf.of(outcome, folder, target)
        logged = shelf.finished()
        shelf.keep_only(logged)
        if logged is not None:
            return f"experiment {target.experiment!r}, run {logged}: was there already"
        if isinstance(outcome, Result):
            return f"experiment {target.experiment!r}, {_log_search(shelf, outcome, folder)}"
        if isinstance(outcome, League):
            return f"experiment {target.experiment!r}, {_log_league(shelf, outcome, folder)}"
        return f"experiment {target.experiment!r}, {_log_verification(shelf, outcome, folder)}"


def serve(target: Target, port: int) -> int:
    """Run MLflow's own UI on the store until it is stopped; returns its exit code."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # a dozen processes nobody needs here
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", target.uri,
               "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    if target.artifacts:
        command += ["--default-artifact-root", target.artifacts]
    return subprocess.call(command, env={**os.environ, **quiet})


def page(target: Target, port: int) -> str:
    """Where the UI shows the experiment's runs."""
    address = f"http://127.0.0.1:{port}/"
    with _speaking_for_mlflow(target, Path()):
        known = MlflowClient(tracking_uri=target.uri).get_experiment_by_name(target.experiment)
    return f"{address}#/experiments/{known.experiment_id}/runs" if known else address


@contextlib.contextmanager
def _speaking_for_mlflow(target: Target, folder: Path) -> Iterator[None]:
    """MLflow's own messages stay out of the terminal; its failures become one sentence."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for name, value in {**PATIENCE, **QUIET}.items():
        os.environ.setdefault(name, value)
    databases.MAX_RETRY_COUNT = DATABASE_TRIES
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (MlflowException, SQLAlchemyError, CannotWrite, OSError, ImportError) as error:
        reason = without_credentials(" ".join(str(error).split()))[:200]
        raise TrackerUnreachable(
            f"the MLflow store {without_credentials(target.uri)} did not take the run "
            f"({reason}); everything is kept in {folder}"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _make_file(target: Target) -> None:
    """A sqlite store that is not there yet is made beside its place, by one process at a time.

    MLflow makes its tables in a hundred steps. Killed in between, or done by two at once, they
    would be no store that it opens again.
    """
    if not target.uri.startswith("sqlite:"):
        return
    path = Path(make_url(target.uri).database or "")
    if path.exists() or path.name == ":memory:":
        return
    with locked(path):
        if not path.exists():
            with replacing(path) as part:
                MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments(max_results=1)


def _anchored(uri: str) -> str:
    """A sqlite path that starts where the user stands now is written whole."""
    scheme, slashes, path = uri.partition(":///")
    if scheme != "sqlite" or not slashes:
        return uri
    return f"sqlite:///{Path(path).absolute()}"


@dataclass(frozen=True)
class _Shelf:
    """The runs of one result in one experiment. All of them carry its identity."""

    client: MlflowClient
    experiment: str
    outcome: Document
    identity: str

    @property
    def models(self) -> Models:
        return Models(self.client, self.experiment, {RESULT_TAG: self.identity})

    @classmethod
    def of(cls, outcome: Document, folder: Path, target: Target) -> _Shelf:
        client = MlflowClient(tracking_uri=target.uri)
        known = client.get_experiment_by_name(target.experiment)
        experiment = known.experiment_id if known else client.create_experiment(
            target.experiment, artifact_location=target.artifacts, tags={KIND_TAG: MODEL_TRAINING}
        )  # fmt: skip
        document = folder / DOCUMENTS[type(outcome)]
        return cls(client, str(experiment), outcome, identity(document.read_bytes()))

    def finished(self) -> str | None:
        """The run that says that all is there."""
        for run in self._runs():
            if run.info.status == "FINISHED" and PARENT_TAG not in run.data.tags:
                return str(run.info.run_id)
        return None

    def keep_only(self, parent: str | None) -> None:
        """Delete every run of this result but this parent and its finished children, and the
        models of the runs that are deleted.

        The others were left by a logging that was interrupted, or made twice: MLflow asks again
        when an answer is lost, although the server may have done what it was asked for.
        """
        kept = set()
        for run in self._runs():
            done, above = run.info.status == "FINISHED", run.data.tags.get(PARENT_TAG)
            if run.info.run_id == parent or (done and above and above == parent):
                kept.add(run.info.run_id)
            else:
                self.client.delete_run(run.info.run_id)
        self.models.keep_only(kept)

    def start(self, kind: str, name: str, tags: Mapping[str, str]) -> str:
        """A new run, dated like the result whenever it is logged."""
        known = {"merge_search.kind": kind, RESULT_TAG: self.identity}
        run = self.client.create_run(
            self.experiment,
            run_name=name,
            start_time=logbook.span(self.outcome)[0],
            tags={**known, **logbook.tags(self.outcome), **tags},
        )
        return str(run.info.run_id)

    def start_parent(self, kind: str, title: str) -> str:
        return self.start(kind, f"{title} {self.outcome.created}", {})

    def finish(self, run: str) -> None:
        self.client.set_terminated(run, end_time=logbook.span(self.outcome)[1])

    def finish_parent(self, run: str) -> None:
        """Say that all is there; what was made twice is gone by then."""
        self.keep_only(run)
        self.finish(run)

    def log_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        params = [Param(key, str(value)) for key, value in parameters.items()]
        for start in range(0, len(params), PARAMETERS_AT_ONCE):
            self.client.log_batch(run, params=params[start : start + PARAMETERS_AT_ONCE])

    def log_metrics(
        self, run: str, metrics: Mapping[str, float], model: str | None = None
    ) -> None:
        """`model` is the id of a model that they are of, too."""
        self._log_points(run, [(name, value, 0) for name, value in metrics.items()], model)

    def log_steps(self, run: str, name: str, values: Sequence[float]) -> None:
        self._log_points(run, [(name, value, step) for step, value in enumerate(values)])

    def log_files(self, run: str, folder: Path) -> None:
        """What every result has: its document, its config and its pictures."""
        config = yaml.safe_dump(self.outcome.config, sort_keys=False)
        self.client.log_text(run, config, "config.yaml")
        for picture in sorted(folder.glob("*.png")):
            self.client.log_artifact(run, str(picture), "pictures")
        self.client.log_artifact(run, str(folder / DOCUMENTS[type(self.outcome)]))

    def _log_points(
        self, run: str, points: Sequence[tuple[str, float, int]], model: str | None = None
    ) -> None:
        moment = logbook.span(self.outcome)[1]
        metrics = [Metric(name, value, moment, step, model) for name, value, step in points]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(run, metrics=metrics[start : start + METRICS_AT_ONCE])

    def _runs(self) -> list[Run]:
        wanted = f"tags.`{RESULT_TAG}` = '{self.identity}'"
        return list(self.client.search_runs([self.experiment], wanted))


def _log_search(shelf: _Shelf, result: Result, folder: Path) -> str:
    parent = shelf.start_parent("search", result.name)
    shelf.log_parameters(parent, logbook.search_parameters(result))
    chosen = next((c for c in result.candidates if c.hash == result.chosen), None)
    if chosen is not None:
        shelf.log_metrics(parent, logbook.candidate_metrics(chosen))
    shelf.log_metrics(parent, logbook.rung_metrics(result))
    shelf.log_steps(parent, "hypervolume", result.study["hypervolume"])
    shelf.client.log_text(parent, logbook.stage_table(result), "stages.md")
    shelf.client.log_table(parent, logbook.front_columns(result), "front.json")
    shelf.log_files(parent, folder)
    _log_unmerged(shelf, parent, result)
    for candidate in result.candidates:
        _log_candidate(shelf, parent, result, candidate, folder)
    shelf.finish_parent(parent)
    return f"run {parent}: 1 parent, {len(result.candidates) + 1} children"


def _log_unmerged(shelf: _Shelf, parent: str, result: Result) -> None:
    run = shelf.start("baseline", "unmerged", {PARENT_TAG: parent})
    shelf.log_parameters(run, {"shares": 0, "plan": "nothing shared"})
    shelf.log_metrics(run, logbook.unmerged_metrics(result))
    shelf.finish(run)


def _log_candidate(
    shelf: _Shelf, parent: str, result: Result, candidate: CandidateRecord, folder: Path
) -> None:
    """A run for a candidate; for the chosen one also its bundle as a model, with its metrics."""
    chosen, model = candidate.hash == result.chosen, None
    tags = {
        PARENT_TAG: parent,
        "merge_search.plan": candidate.hash,
        "merge_search.chosen": str(chosen).lower(),
    }
    name = f"{candidate.saved_pct:.0f}% saved, plan {candidate.hash[:6]}"
    run = shelf.start("candidate", name, tags)
    shelf.log_parameters(run, logbook.plan_parameters(candidate))
    if chosen and _holds_its_bundle(folder, result):
        parameters = logbook.model_parameters(result, candidate)
        model = shelf.models.log(folder / BUNDLE_FOLDER, result.name, run, parameters)
    shelf.log_metrics(run, logbook.candidate_metrics(candidate), model)
    shelf.client.log_dict(run, candidate.plan, "plan.json")
    shelf.finish(run)


def _holds_its_bundle(folder: Path, result: Result) -> bool:
    """A later run into the same folder may have left another one there."""
    bundle = folder / BUNDLE_FOLDER
    return result.bundle is not None and bundle.is_dir() and bundle_id(bundle) == result.bundle


def _log_league(shelf: _Shelf, league: League, folder: Path) -> str:
    run = shelf.start_parent("correlate", f"{league.name} guides")
    shelf.log_parameters(run, logbook.league_parameters(league))
    shelf.log_metrics(run, logbook.league_metrics(league))
    shelf.client.log_table(run, logbook.league_columns(league), "guides.json")
    shelf.client.log_artifact(run, str(folder / "guides.csv"))
    shelf.log_files(run, folder)
    shelf.finish_parent(run)
    return f"run {run}"


def _log_verification(shelf: _Shelf, verification: Verification, folder: Path) -> str:
    run = shelf.start_parent("verify", f"{verification.name} verified")
    shelf.log_parameters(run, logbook.verification_parameters(verification))
    if verification.foremost is not None:
        shelf.log_metrics(run, logbook.candidate_metrics(verification.foremost))
    shelf.client.log_table(run, logbook.verification_columns(verification), "candidates.json")
    shelf.log_files(run, folder)
    shelf.finish_parent(run)
    return f"run {run}"
