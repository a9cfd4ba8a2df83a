"""What commands have found, each as one file: the documents of an OUT folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from search.results.metric_comparison import MetricComparison
from search.results.search_result import Result
from search.results.verification import Verification
from search.utils.records import read_record
from search.utils.timing import epoch_milliseconds

Document = Result | MetricComparison | Verification
"""What a command has found, as it lies in a file."""
DOCUMENTS: dict[type[Result] | type[MetricComparison] | type[Verification], str] = {
    Result: "result.json",
    MetricComparison: "league.json",
    Verification: "verified.json",
}


def identity(content: bytes) -> str:
    """What tells a result from all others: twelve digits of the SHA-256 of its file's content."""
    return hashlib.sha256(content).hexdigest()[:12]


PLACES = {Result: ".", MetricComparison: "correlate", Verification: "verify"}
"""The folder below OUT where each document lies."""


def read_document(document: Path) -> Document:
    """Read a result.json, league.json or verified.json.

    Raises:
        BadRecord: The file is damaged or written by another version.
    """
    kind = next(kind for kind, name in DOCUMENTS.items() if name == document.name)
    return read_record(kind, document)


class Provenance(Protocol):
    """What every result says of where it comes from."""

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


def span(outcome: Provenance) -> tuple[int, int]:
    """When the work began and when it was done, in milliseconds since 1970."""
    done = epoch_milliseconds(outcome.created)
    return done - int(sum(outcome.seconds.values()) * 1000), done
