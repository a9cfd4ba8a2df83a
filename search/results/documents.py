"""What commands have found, each as one file: the documents of an OUT folder."""

from __future__ import annotations

import hashlib

from search.results.metric_comparison import League
from search.results.search_result import Result
from search.results.verification import Verification

Document = Result | League | Verification
"""What a command has found, as it lies in a file."""
DOCUMENTS: dict[type[Result] | type[League] | type[Verification], str] = {
    Result: "result.json",
    League: "league.json",
    Verification: "verified.json",
}


def identity(content: bytes) -> str:
    """What tells a result from all others: twelve digits of the SHA-256 of its file's content."""
    return hashlib.sha256(content).hexdigest()[:12]
