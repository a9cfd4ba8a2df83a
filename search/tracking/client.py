"""Open MLflow's store, log documents into it, and serve its UI.

The tracker decides nothing and stores nothing: everything it sends is in OUT already. The store
may be unreachable or fail half way, so a tag of every run holds the identity of its document, and
the parent run is finished last: a finished parent says that its document is logged completely.
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

import mlflow.store.db.utils as databases
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from search.results.documents import Document
from search.results.search_result import Result
from search.tracking.experiment import DeletedExperiment, find_experiment
from search.tracking.measured_runs import log_measurements
from search.tracking.registry import Registry
from search.tracking.run_writer import ResultRuns, last_candidate_runs, last_split_runs
from search.tracking.runs import log_runs
from search.tracking.target import Target
from search.utils.files import CannotWrite, replace_file
from search.utils.locks import file_lock
from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""Three attempts of 10 s with pauses of 5 s: a server that does not answer costs 35 s."""
DATABASE_ATTEMPTS = 5
"""With pauses of 0.1, 0.3, 0.7 and 1.5 s; MLflow's default of ten takes 100 s."""
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class TrackerUnreachable(MergeSearchError):
    """The MLflow store or server cannot be reached, or refused a run."""


def log_document(document: Document, folder: Path, target: Target) -> str:
    """Log a document, unless it is logged completely; return a sentence that says where it is.

    `folder` holds the file of the document and its pictures. What an interrupted logging of the
    same document left in the store is deleted first.

    Raises:
        TrackerUnreachable: The store cannot be reached or refused a run. The folder still holds
            everything.
    """
    with _mlflow_errors_in_words(target, folder), _exclusive(target):
        writer = ResultRuns.of(document, folder, target)
        finished = writer.find_finished_parent()
        writer.delete_leftovers(finished)
        if finished is None:
            logged = log_runs(writer, document, folder)
        else:
            logged = f"run {finished}: logged before"
        version = None
        if isinstance(document, Result):
            parent = writer.find_finished_parent()
            if document.measured and parent is not None:
                log_measurements(writer, document, parent, folder)
                logged += ", with its measurements on devices"
            # Only now: an incomplete version would be deleted by the next attempt.
            version = writer.registry.propose(writer.identity)
        model = "" if version is None else f"; model {document.name!r}, version {version}"
        return f"experiment {target.experiment!r}, {logged}{model}"


def serve(target: Target, port: int) -> int:
    """Serve MLflow's UI on the store until it is stopped; return its exit code."""
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"
    }  # it would start a dozen idle processes
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", target.uri,
               "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    if target.artifacts:
        command += ["--default-artifact-root", target.artifacts]
    return subprocess.call(command, env={**os.environ, **quiet})


def pages(target: Target, name: str, port: int) -> dict[str, str]:
    """Return addresses in the UI, by their titles.

    They are the runs of the experiment and, if there is a search of that name, the comparison of
    the candidates of the last one; the same of splits.
    """
    address = f"http://127.0.0.1:{port}/"
    with _mlflow_errors_in_words(target, None):
        client = MlflowClient(tracking_uri=target.uri)
        experiment = client.get_experiment_by_name(target.experiment)
        if experiment is None:
            return {"MLflow UI": address}
        addresses = {"MLflow UI": f"{address}#/experiments/{experiment.experiment_id}/runs"}
        compared = {
            "Candidates": last_candidate_runs(client, experiment.experiment_id, name),
            "Splits": last_split_runs(client, experiment.experiment_id, name),
        }
    for title, ids in compared.items():
        if ids:
            query = f"runs={_compact(ids)}&experiments={_compact([experiment.experiment_id])}"
            addresses[title] = f"{address}#/compare-runs?{quote(query, safe='=&[],')}"
    return addresses


def _compact(ids: list[str]) -> str:
    return json.dumps(ids, separators=(",", ":"))


def check_tracker(target: Target) -> None:
    """Check that the store answers; a local database that does not exist yet is not created.

    Raises:
        TrackerUnreachable: The store cannot be reached, or the experiment is deleted.
    """
    path = target.uri.removeprefix("sqlite:///")
    if path != target.uri and not Path(path).is_file():
        return
    with open_mlflow_store(target, None) as client:
        find_experiment(client, target)


@contextlib.contextmanager
def open_registry(target: Target, name: str) -> Iterator[Registry]:
    """Open the registered versions of a name.

    Raises:
        TrackerUnreachable: The store cannot be reached.
    """
    with open_mlflow_store(target, None) as client:
        yield Registry(client, name)


@contextlib.contextmanager
def open_mlflow_store(target: Target, folder: Path | None) -> Iterator[MlflowClient]:
    """Open the store for one process at a time; `folder` holds the data to be logged, if any.

    Raises:
        TrackerUnreachable: The store cannot be reached, or refused the data.
    """
    with _mlflow_errors_in_words(target, folder), _exclusive(target):
        yield MlflowClient(tracking_uri=target.uri)


@contextlib.contextmanager
def _mlflow_errors_in_words(target: Target, folder: Path | None) -> Iterator[None]:
    """Keep MLflow's messages out of the terminal; turn its errors into one sentence."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for name, value in {**PATIENCE, **QUIET}.items():
        os.environ.setdefault(name, value)
    databases.MAX_RETRY_COUNT = DATABASE_ATTEMPTS
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except DeletedExperiment as error:
        raise _refusal(target, folder, "takes no run", str(error)) from error
    except (MlflowException, SQLAlchemyError, CannotWrite, OSError, ImportError) as error:
        failure = "cannot be reached" if folder is None else "did not take the run"
        reason = without_credentials(" ".join(str(error).split()))[:200]
        raise _refusal(target, folder, failure, reason) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refusal(target: Target, folder: Path | None, failure: str, reason: str) -> TrackerUnreachable:
    kept = "" if folder is None else f"; everything is kept in {folder}"
    store = without_credentials(target.uri)
    return TrackerUnreachable(f"the MLflow store {store} {failure} ({reason}){kept}")


@contextlib.contextmanager
def _exclusive(target: Target) -> Iterator[None]:
    """Lock an sqlite store for this process, and make it if it does not exist.

    MLflow checks that an experiment or an alias is missing before it makes one, so two processes
    could both make it. Servers and other databases handle this themselves.
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
    """Make the tables in a temporary file, then move it into place.

    MLflow makes them in a hundred steps, and does not open a file whose making was interrupted.
    """
    with replace_file(path) as part:
        MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments(max_results=1)
