"""The only door to MLflow, with the `tracking_*` modules beside it: results become runs.

The tracker decides nothing and holds nothing: all it sends lies in OUT already. The store may be
away or die half way, so every run carries the identity of its result, and a parent is finished
last: one that is finished says that nothing of its result is missing.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from search.results.documents import Document
from search.results.search_result import Result
from search.tracking.registry import Registry
from search.tracking.run_writer import ResultRuns, last_candidates
from search.tracking.runs import log
from search.tracking.target import Target
from search.utils.files import CannotWrite, replace_file
from search.utils.locks import file_lock
from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
import mlflow.store.db.utils as databases
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""Three tries of 10 s with 5 s between them: a silent server is given up after 35 s."""
DATABASE_TRIES = 5
"""With 0.1, 0.3, 0.7 and 1.5 s between them; MLflow's own ten take 100 s."""
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class TrackerUnreachable(MergeSearchError):
    """The MLflow store or server did not take the run."""


def record(outcome: Document, folder: Path, target: Target) -> str:
    """Log a result, unless all of it is there; returns a sentence that says where it is.

    `folder` holds its document and its pictures. What an interrupted logging of the same result
    has left is removed first.

    Raises:
        TrackerUnreachable: the store did not take it. The folder holds everything all the same.
    """
    with _speaking_for_mlflow(target, folder), _alone(target):
        shelf = ResultRuns.of(outcome, folder, target)
        logged = shelf.finished()
        shelf.keep_only(logged)
        said = (
            log(shelf, outcome, folder) if logged is None else f"run {logged}: was there already"
        )
        # Only what is whole is proposed: what was left half logged is deleted by the next try.
        version = shelf.registry.propose(shelf.identity) if isinstance(outcome, Result) else None
        known = "" if version is None else f"; model {outcome.name!r}, version {version}"
        return f"experiment {target.experiment!r}, {said}{known}"


def serve(target: Target, port: int) -> int:
    """Run MLflow's own UI on the store until it is stopped; returns its exit code."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # a dozen processes nobody needs here
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", target.uri,
               "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    if target.artifacts:
        command += ["--default-artifact-root", target.artifacts]
    return subprocess.call(command, env={**os.environ, **quiet})


def pages(target: Target, name: str, port: int) -> dict[str, str]:
    """Addresses in the UI, by what they show: the experiment's runs, and, if there is a search of
    that name, the comparison of the last one's candidates."""
    address = f"http://127.0.0.1:{port}/"
    with _speaking_for_mlflow(target, None):
        client = MlflowClient(tracking_uri=target.uri)
        known = client.get_experiment_by_name(target.experiment)
        if known is None:
            return {"MLflow UI": address}
        found = {"MLflow UI": f"{address}#/experiments/{known.experiment_id}/runs"}
        compared = last_candidates(client, known.experiment_id, name)
    if compared:
        runs, experiments = (_compact(ids) for ids in (compared, [known.experiment_id]))
        query = f"runs={runs}&experiments={experiments}"
        found["Candidates"] = f"{address}#/compare-runs?{quote(query, safe='=&[],')}"
    return found


def _compact(ids: list[str]) -> str:
    return json.dumps(ids, separators=(",", ":"))


@contextlib.contextmanager
def registry(target: Target, name: str) -> Iterator[Registry]:
    """The registered versions of a name.

    Raises:
        TrackerUnreachable: the store cannot be asked.
    """
    with store(target, None) as client:
        yield Registry(client, name)


@contextlib.contextmanager
def store(target: Target, folder: Path | None) -> Iterator[MlflowClient]:
    """The store, for one process at a time; `folder` holds what it is given, if it is given any.

    Raises:
        TrackerUnreachable: it cannot be asked, or did not take it.
    """
    with _speaking_for_mlflow(target, folder), _alone(target):
        yield MlflowClient(tracking_uri=target.uri)


@contextlib.contextmanager
def _speaking_for_mlflow(target: Target, folder: Path | None) -> Iterator[None]:
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
        what, kept = ("cannot be asked", "") if folder is None else (
            "did not take the run", f"; everything is kept in {folder}"
        )  # fmt: skip
        raise TrackerUnreachable(
            f"the MLflow store {without_credentials(target.uri)} {what} ({reason}){kept}"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _alone(target: Target) -> Iterator[None]:
    """One process at a time writes to a sqlite store, and makes it if it is not there yet.

    MLflow looks whether an experiment or an alias is there and then makes it: two at once would
    both. Servers and databases with clients of their own sort that out themselves.
    """
    path = Path(make_url(target.uri).database or "") if target.uri.startswith("sqlite:") else None
    if path is None or path.name == ":memory:":
        yield
        return
    with file_lock(path):
        if not path.exists():
            _make_file(path)
        yield


def _make_file(path: Path) -> None:
    """MLflow makes its tables in a hundred steps: beside their place, since what is killed in
    between is no store that it opens again."""
    with replace_file(path) as part:
        MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments(max_results=1)
