"""Results on their way to MLflow: kept in OUT/unlogged until the store has all of them.

What is kept is a whole copy, so later runs into the same OUT may overwrite what lies there.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from search.results.documents import DOCUMENTS, PLACES, Document, identity, read_document
from search.results.search_result import BUNDLE_FOLDER, Result
from search.tracking import client
from search.tracking.client import TrackerUnreachable
from search.tracking.run_writer import BESIDE_RESULT
from search.tracking.system_metrics import SYSTEM
from search.tracking.target import ENVIRONMENT, REMEMBERED, Target, recall, remember
from search.utils.files import CannotWrite, json_bytes, link_or_copy, write_bytes
from search.utils.records import BadRecord, dump_record
from spaces.errors import MergeSearchError

UNLOGGED = "unlogged"
BESIDE = ("guides.csv", "*.png", "*.svg", SYSTEM, *BESIDE_RESULT)
"""What is logged with a document from its folder."""


class NotLogged(TrackerUnreachable):
    """The work is done and all of it is kept; only MLflow does not have it yet."""

    exit_code = 3


class NothingToLog(MergeSearchError):
    """No run has finished in this folder."""


def record_or_keep(outcome: Document, out: Path, target: Target) -> str:
    """Log what was just written to OUT; returns a sentence that says where it is in MLflow.

    It is kept before it is logged, not after: a process that is killed meanwhile loses nothing
    either.

    Raises:
        NotLogged: the store did not take it; it waits for `sync`.
        CannotWrite: it cannot be kept.
    """
    remember(target, out)
    document = out / PLACES[type(outcome)] / DOCUMENTS[type(outcome)]
    kept = keep(json_bytes(dump_record(outcome)), document, out)
    try:
        said = client.record(outcome, kept, target)
    except TrackerUnreachable as error:
        command = f"merge-search sync {shlex.quote(str(out))}"
        raise NotLogged(f"{error}. Replay it later with: {command}") from error
    _drop(kept)
    return said


def keep(content: bytes, document: Path, out: Path) -> Path:
    """Keep a result, its pictures, its bundle and where it goes; returns OUT/unlogged/IDENTITY.

    `content` is what was written to `document`, where another run's may lie by now.

    Raises:
        CannotWrite: the folder cannot be made or written to, or the disk is full.
    """
    kept = out / UNLOGGED / identity(content)
    if kept.is_dir():
        return kept
    part = kept.with_name(f".{kept.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pictures = [path for pattern in BESIDE for path in document.parent.glob(pattern)]
    bundle = document.parent / BUNDLE_FOLDER
    try:
        write_bytes(part / document.name, content)
        for source in (out / REMEMBERED, *pictures):
            write_bytes(part / source.name, source.read_bytes())
        if bundle.is_dir():
            # Bundles are replaced, never written into: what is linked stays as it is.
            shutil.copytree(bundle, part / BUNDLE_FOLDER, copy_function=link_or_copy)
        os.replace(part, kept)
    except OSError as error:
        raise CannotWrite(f"cannot keep {document} in {kept}: {error}") from error
    return kept


def sync(out: Path) -> Iterator[str]:
    """Log all that is kept, oldest first, and what lies in OUT, if it is not there yet.

    Yields a sentence for each as soon as it is there. What is damaged is passed over.

    Raises:
        NothingToLog: there is no result in OUT and nothing is kept.
        TrackerUnreachable: the store did not take one; it and all after it stay kept.
        BadRecord: in the end, naming all files that could not be read.
    """
    documents = [out / PLACES[kind] / name for kind, name in DOCUMENTS.items()]
    lying = [document for document in documents if document.is_file()]
    if not lying and not _kept(out):
        raise NothingToLog(f"{out}: nothing to log: no {DOCUMENTS[Result]} and no {UNLOGGED}/")
    damaged: list[str] = []
    waiting: list[tuple[Document, Path, Target]] = []
    for document in lying:
        with _noting(damaged):
            read_document(document)
            recall(out)
            keep(document.read_bytes(), document, out)
    for kept in _kept(out):
        with _noting(damaged):
            waiting.append((_read_kept(kept), kept, recall(kept)))
    for outcome, kept, target in sorted(waiting, key=lambda entry: entry[0].created):
        said = _replay(outcome, kept, target)
        _drop(kept)
        yield f"{outcome.name} of {outcome.created}: {said}"
    if damaged:
        raise BadRecord("; ".join(damaged))


def _replay(outcome: Document, kept: Path, target: Target) -> str:
    try:
        return client.record(outcome, kept, target)
    except TrackerUnreachable as error:
        if os.environ.get(ENVIRONMENT) or target.uri.startswith("sqlite"):
            raise
        raise TrackerUnreachable(
            f"{error}. {REMEMBERED} holds no credentials: if the store wants any, give them in "
            f"{ENVIRONMENT}, or in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        ) from error


def _kept(out: Path) -> list[Path]:
    """The kept folders. Those with a dot are half written, or on their way out."""
    return sorted(path for path in (out / UNLOGGED).glob("[!.]*") if path.is_dir())


def _read_kept(kept: Path) -> Document:
    for name in DOCUMENTS.values():
        document = kept / name
        if document.is_file():
            if identity(document.read_bytes()) != kept.name:
                raise BadRecord(f"{document} is not what was kept there")
            return read_document(document)
    raise BadRecord(f"{kept} holds no result")


def _drop(kept: Path) -> None:
    """Out of sight in one step, then away: killed in between, it leaves no half to be read."""
    gone = kept.with_name(f".{kept.name}.logged")
    with contextlib.suppress(OSError):  # what stays is found to be there already next time
        for left in kept.parent.glob(".*.logged"):
            shutil.rmtree(left)
        kept.rename(gone)
        shutil.rmtree(gone)
        kept.parent.rmdir()


@contextlib.contextmanager
def _noting(damaged: list[str]) -> Iterator[None]:
    """What is damaged does not stop the others."""
    try:
        yield
    except BadRecord as error:
        damaged.append(str(error))
