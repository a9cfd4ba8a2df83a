"""The outbox: documents wait in OUT/unlogged until MLflow has logged them completely.

A waiting document is a full copy, so a later run may overwrite the files in OUT.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from search.results.documents import (
    DOCUMENT_FOLDERS,
    DOCUMENT_NAMES,
    Document,
    content_id,
    read_document,
)
from search.results.search_result import BUNDLE_FOLDER, Result
from search.tracking import client
from search.tracking.client import TrackerUnreachable
from search.tracking.run_writer import BESIDE_RESULT
from search.tracking.system_metrics import SYSTEM_FILE
from search.tracking.target import ENVIRONMENT, TARGET_FILE, Target, read_target, write_target
from search.utils.files import CannotWrite, json_bytes, link_or_copy, write_bytes
from search.utils.records import BadRecord, dump_record
from spaces.errors import MergeSearchError

UNLOGGED = "unlogged"
LOGGED_FILES = ("guides.csv", "*.png", "*.svg", SYSTEM_FILE, *BESIDE_RESULT)
"""Files that are logged with a document of the same folder."""


class NotLogged(TrackerUnreachable):
    """The work is done and its outcome is stored, but MLflow does not have it yet."""

    exit_code = 3


class NothingToLog(MergeSearchError):
    """No run has finished in this folder."""


def log_or_queue(document: Document, out: Path, target: Target) -> str:
    """Log a document that was just written to OUT; return a sentence that says where it is.

    The document is queued before it is logged, so that a killed process loses nothing.

    Raises:
        NotLogged: MLflow refused it or cannot be reached; it waits for `sync`.
        CannotWrite: It cannot be queued.
    """
    write_target(target, out)
    path = out / DOCUMENT_FOLDERS[type(document)] / DOCUMENT_NAMES[type(document)]
    queued = queue_document(json_bytes(dump_record(document)), path, out)
    try:
        location = client.log_document(document, queued, target)
    except TrackerUnreachable as error:
        command = f"merge-search sync {shlex.quote(str(out))}"
        raise NotLogged(f"{error}. Replay it later with: {command}") from error
    _remove(queued)
    return location


def queue_document(content: bytes, document: Path, out: Path) -> Path:
    """Copy a document, its pictures, its bundle and its target to OUT/unlogged/IDENTITY.

    `content` was written to `document`, which another run may have replaced meanwhile.
    Returns the new folder.

    Raises:
        CannotWrite: The folder cannot be made or written to, or the disk is full.
    """
    queued = out / UNLOGGED / content_id(content)
    if queued.is_dir():
        _renew(queued, content, document)
        return queued
    part = queued.with_name(f".{queued.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    files = [path for pattern in LOGGED_FILES for path in document.parent.glob(pattern)]
    bundle = document.parent / BUNDLE_FOLDER
    try:
        write_bytes(part / document.name, content)
        for source in (out / TARGET_FILE, *files):
            write_bytes(part / source.name, source.read_bytes())
        if bundle.is_dir():
            # Bundles are replaced, never written into, so hard links are safe.
            shutil.copytree(bundle, part / BUNDLE_FOLDER, copy_function=link_or_copy)
        os.replace(part, queued)
    except OSError as error:
        raise CannotWrite(f"cannot keep {document} in {queued}: {error}") from error
    return queued


def _renew(queued: Path, content: bytes, document: Path) -> None:
    """Replace a queued document and its pages if measurements were added to it since.

    Raises:
        CannotWrite: The folder cannot be written to, or the disk is full.
    """
    if (queued / document.name).read_bytes() == content:
        return
    for page in map(document.with_name, BESIDE_RESULT):
        if page.is_file():
            write_bytes(queued / page.name, page.read_bytes())
    write_bytes(queued / document.name, content)


def sync(out: Path) -> Iterator[str]:
    """Log all queued documents, oldest first, and those in OUT that are not logged yet.

    Yields a sentence for each document once it is logged. Damaged documents are skipped.

    Raises:
        NothingToLog: There is no document in OUT and none is queued.
        TrackerUnreachable: MLflow refused a document; it and all later ones stay queued.
        BadRecord: After all others are logged, if files were damaged; the message names them.
    """
    paths = [out / DOCUMENT_FOLDERS[kind] / name for kind, name in DOCUMENT_NAMES.items()]
    documents = [path for path in paths if path.is_file()]
    if not documents and not _queue(out):
        raise NothingToLog(
            f"{out}: nothing to log: no {DOCUMENT_NAMES[Result]} and no {UNLOGGED}/"
        )
    damaged: list[str] = []
    waiting: list[tuple[Document, Path, Target]] = []
    for path in documents:
        with _collecting_errors(damaged):
            read_document(path)
            read_target(out)
            queue_document(path.read_bytes(), path, out)
    for queued in _queue(out):
        with _collecting_errors(damaged):
            waiting.append((_read_queued(queued), queued, read_target(queued)))
    for document, queued, target in sorted(waiting, key=lambda entry: entry[0].created):
        location = _log_queued(document, queued, target)
        _remove(queued)
        yield f"{document.name} of {document.created}: {location}"
    if damaged:
        raise BadRecord("; ".join(damaged))


def _log_queued(document: Document, queued: Path, target: Target) -> str:
    try:
        return client.log_document(document, queued, target)
    except TrackerUnreachable as error:
        if os.environ.get(ENVIRONMENT) or target.uri.startswith("sqlite"):
            raise
        raise TrackerUnreachable(
            f"{error}. {TARGET_FILE} holds no credentials: if the store needs them, set "
            f"{ENVIRONMENT}, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        ) from error


def _queue(out: Path) -> list[Path]:
    """Return the queued folders. Hidden folders are incomplete or about to be deleted."""
    return sorted(path for path in (out / UNLOGGED).glob("[!.]*") if path.is_dir())


def _read_queued(queued: Path) -> Document:
    for name in DOCUMENT_NAMES.values():
        document = queued / name
        if document.is_file():
            if content_id(document.read_bytes()) != queued.name:
                raise BadRecord(f"{document} has changed since it was queued")
            return read_document(document)
    raise BadRecord(f"{queued} holds no result")


def _remove(queued: Path) -> None:
    """Hide the folder atomically, then delete it, so that no half-deleted folder is read."""
    hidden = queued.with_name(f".{queued.name}.logged")
    with contextlib.suppress(OSError):  # the next sync finds the rest logged
        for leftover in queued.parent.glob(".*.logged"):
            shutil.rmtree(leftover)
        queued.rename(hidden)
        shutil.rmtree(hidden)
        queued.parent.rmdir()


@contextlib.contextmanager
def _collecting_errors(errors: list[str]) -> Iterator[None]:
    """Collect damaged records, so that they do not stop the others."""
    try:
        yield
    except BadRecord as error:
        errors.append(str(error))
