"""The documents of an OUT folder: one JSON file for the outcome of each command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from search.results.metric_comparison import MetricComparison
from search.results.search_result import Result
from search.results.split_result import SPLIT_DOCUMENT, SPLIT_FOLDER, SplitResult
from search.results.verification import Verification
from search.utils.files import json_bytes
from search.utils.records import read_record
from search.utils.timing import epoch_milliseconds

Document = Result | MetricComparison | Verification | SplitResult
"""The outcome of a command."""
DOCUMENT_NAMES: dict[type[Document], str] = {
    Result: "result.json",
    MetricComparison: "league.json",
    Verification: "verified.json",
    SplitResult: SPLIT_DOCUMENT,
}
DOCUMENT_FOLDERS: dict[type[Document], str] = {
    Result: ".",
    MetricComparison: "correlate",
    Verification: "verify",
    SplitResult: SPLIT_FOLDER,
}
"""The folder below OUT that holds each document."""


def content_id(content: bytes) -> str:
    """Return the identity of a document: the first twelve digits of the SHA-256 of its file.

    Measurements that were added to a result later do not count: it is still that run's.
    """
    return hashlib.sha256(_without_measurements(content)).hexdigest()[:12]


def _without_measurements(content: bytes) -> bytes:
    if b'"measured": [' not in content:
        return content
    document = json.loads(content)
    document.pop("measured", None)
    return json_bytes(document)


def read_document(document: Path) -> Document:
    """Read a result.json, league.json, verified.json or split.json.

    Raises:
        BadRecord: The file is damaged or was written by another version.
    """
    kind = next(kind for kind, name in DOCUMENT_NAMES.items() if name == document.name)
    return read_record(kind, document)


class Provenance(Protocol):
    """The fields of a document that say where its numbers come from."""

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def frames(self) -> Mapping[str, Any]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...
    @property
    def created(self) -> str: ...
    @property
    def versions(self) -> Mapping[str, str]: ...


def work_period(document: Provenance) -> tuple[int, int]:
    """Return the start and the end of the work, in milliseconds since 1970."""
    end = epoch_milliseconds(document.created)
    return end - int(sum(document.seconds.values()) * 1000), end
