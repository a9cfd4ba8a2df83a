"""The OUT folder of a finished run: its result, and the config that it was started with."""

from __future__ import annotations

from pathlib import Path

from search.config.loading import config_of
from search.config.run import RunConfig
from search.results.documents import DOCUMENT_NAMES, read_document
from search.results.search_result import Result
from search.utils.records import BadRecord
from spaces.errors import MergeSearchError

DOCUMENT = DOCUMENT_NAMES[Result]


class NoSuchRun(MergeSearchError):
    """The folder holds no finished run."""


def read_run(out: Path) -> tuple[Result, RunConfig]:
    """Read the result of the run in the folder OUT, and its config.

    Raises:
        NoSuchRun: there is no result.json.
        BadRecord: result.json is incomplete or of another version.
        BadConfig: it holds a config that this version does not accept.
    """
    document = out / DOCUMENT
    if not document.is_file():
        raise NoSuchRun(f"{out}: no {DOCUMENT}; give the folder that `merge-search run` wrote to")
    result = read_document(document)
    if not isinstance(result, Result):
        raise BadRecord(f"{document} is no result of `merge-search run`")
    base = (out / result.base).resolve()
    return result, config_of(result.config, base, document)
