"""Where trials are kept: a journal file beside the results, or a PostgreSQL database."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend

from search.config import POSTGRESQL, without_credentials
from spaces.errors import MergeSearchError

ENDED = "datetime_complete"
"""Only the journal's line that ends a trial says when."""


class DamagedStudy(MergeSearchError):
    """The file that keeps the trials is not one, or was cut."""


class StoreFailed(MergeSearchError):
    """The store cannot be reached, or does not take another trial."""


class JournalFile(JournalFileBackend):
    """Optuna's journal in a file that survives what happens to the processes that write to it.

    The lock is the kernel's own (flock): it goes with the process that held it, so a killed one
    keeps nobody waiting. A line that was cut short (killed, or the disk was full) is taken away
    before the next one is written; it had never counted. The disk is waited for once per trial,
    when its values are written: lines reach it in their order, so a power failure costs at most
    trials that had not ended.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with open(self._file_path, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _end_of_whole_lines(file)
            try:
                _write_all(file, lines.encode())
                if any(ENDED in log for log in logs):
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise


def _end_of_whole_lines(file: BinaryIO) -> int:
    """Cut what follows the last line end, and stand there."""
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
    return file.seek(end)


def _write_all(file: BinaryIO, content: bytes) -> None:
    """Unbuffered files may take less than they are given."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def open_store(where: str) -> BaseStorage:
    """The store at `where`: a file's path, made if need be, or a `postgresql://` URL.

    Raises:
        DamagedStudy: the file is no journal.
        StoreFailed: the database cannot be reached, or its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not POSTGRESQL.match(where):
        return _journal(Path(where))
    with speaking_for(where):
        try:
            url = POSTGRESQL.sub("postgresql+psycopg://", where, count=1)
            return get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True}))
        except ImportError as error:
            raise StoreFailed(
                f"storage {without_credentials(where)}: the PostgreSQL driver is not installed; "
                "pip install 'merge-search[postgresql]'"
            ) from error


def _journal(path: Path) -> JournalStorage:
    try:
        path.touch()
        return JournalStorage(JournalFile(str(path)))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStudy(
            f"study {path}: cannot be read ({error}); remove it to start the search afresh"
        ) from error
    except OSError as error:
        raise StoreFailed(f"study {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def speaking_for(where: str) -> Iterator[None]:
    """A store's failures become one sentence; what it holds already stays there."""
    try:
        yield
    except OSError as error:
        raise StoreFailed(
            f"study {where}: cannot keep another trial ({error.strerror or error}); all trials "
            "so far are kept: put it right and run the same command again to go on"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = without_credentials(" ".join(str(error.__cause__ or error).split()))[:200]
        raise StoreFailed(
            f"storage {without_credentials(where)}: the database failed ({reason}); what it has "
            "taken is kept: when it is back, run the same command again to go on"
        ) from error
