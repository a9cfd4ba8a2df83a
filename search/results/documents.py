"""What commands have found, each as one file: the documents of an OUT folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from search.results.metric_comparison import MetricComparison
from search.results.search_result import Result
from search.results.verification import Verification
from search.utils.timing import milliseconds
from spaces.errors import MergeSearchError

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


class Damaged(MergeSearchError):
    """A result that cannot be read back."""


def read_document(document: Path) -> Document:
    """What is in a result.json, league.json or verified.json.

    Raises:
        Damaged: it is not what its name says.
    """
    kind = next(kind for kind, name in DOCUMENTS.items() if name == document.name)
    try:
        outcome = kind.from_dict(json.loads(document.read_text(encoding="utf-8")))
        span(outcome)
        return outcome
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{document} is not a whole {document.stem} ({type(error).__name__}: {error})"
        ) from error


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
    done = milliseconds(outcome.created)
    return done - int(sum(outcome.seconds.values()) * 1000), done
