"""Stores for trials: a journal file, or a PostgreSQL database."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend

from search.study.database.batched_storage import BatchedStorage
from search.study.database.trial_rows import KNOWN_TABLES
from search.study.storage_url import POSTGRESQL
from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError

END_FIELD = "datetime_complete"
"""The field that only a line of the journal that ends a trial has."""
JOURNAL_START = b'{"op_code":'
"""Every line of a journal starts like this."""
CONNECTION_TIMEOUTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
"""Parameters of libpq: give up a server that does not answer within 10 s, or that falls silent for
30 s. Parameters of the URL have precedence."""
OPENING_LOCK = sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext('merge-search'))")
"""Lets one process at a time create the tables."""


class DamagedStudy(MergeSearchError):
    """The file is no journal of trials, or it is damaged."""


class StoreFailed(MergeSearchError):
    """The store cannot be reached, or takes no more trials."""


class JournalFile(JournalFileBackend):
    """Optuna's journal in a file that survives the death of its writers.

    The lock is the kernel's own (flock). It is released when the process that holds it dies, so a
    killed process blocks nobody. A line that was cut short (its writer was killed, or the disk was
    full) never counted; it is removed before the next line is written. The file is synchronised
    with the disk once per trial, when the trial's values are written. Lines reach the disk in
    their order, so a power failure costs at most the trials that were still running.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the logs, one line each; on a failure the file stays as it was.

        Raises:
            OSError: the disk is full, or the file cannot be written to.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with open(self._file_path, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _end_of_whole_lines(file)
            try:
                _write_all(file, lines.encode())
                if any(END_FIELD in log for log in logs):
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise


def _end_of_whole_lines(file: BinaryIO) -> int:
    """Truncate the file after its last complete line, seek to the end, and return the position."""
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
    return file.seek(end)


def _write_all(file: BinaryIO, content: bytes) -> None:
    """Write everything: an unbuffered file may accept only a part."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def open_store(where: str) -> BaseStorage:
    """Open the store at `where`: a file's path, which is created if missing, or a URL.

    A URL starts with `postgresql://`.

    Raises:
        DamagedStudy: the file is no journal.
        StoreFailed: the database cannot be reached, or its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # this project reports failures itself
    if not POSTGRESQL.match(where):
        return _journal(Path(where))
    with translated_errors(where):
        try:
            return _database(_address(where))
        except ImportError as error:
            raise StoreFailed(
                f"storage {without_credentials(where)}: the PostgreSQL driver is not installed; "
                "pip install 'merge-search[postgresql]'"
            ) from error


def check_store(where: str) -> None:
    """Check that a store can be reached, or a file read, without creating either.

    Raises:
        DamagedStudy, StoreFailed: as `open_store`.
    """
    if POSTGRESQL.match(where):
        with translated_errors(where):
            engine = sqlalchemy.create_engine(_address(where), poolclass=sqlalchemy.NullPool)
            engine.connect().close()
    elif Path(where).is_file():
        open_store(where)


def open_existing_store(where: str) -> BaseStorage:
    """Open a store without creating a file.

    Raises:
        DamagedStudy, StoreFailed: as `open_store`; or the file does not exist.
    """
    if not POSTGRESQL.match(where) and not Path(where).is_file():
        raise StoreFailed(f"study {where}: there is no such file")
    return open_store(where)


def answering_from_memory(storage: BaseStorage) -> AbstractContextManager[None]:
    """Let a database answer from memory in the block, as of the trial created last in it."""
    if isinstance(storage, BatchedStorage):
        return storage.from_memory()
    return contextlib.nullcontext()


def _address(where: str) -> sqlalchemy.URL:
    try:
        url = sqlalchemy.make_url(POSTGRESQL.sub("postgresql+psycopg://", where, count=1))
    except (ValueError, sqlalchemy.exc.ArgumentError):
        raise StoreFailed(
            "the storage's URL cannot be read; write it as "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with @, / and : in the password as "
            "%40, %2F and %3A"
        ) from None  # the message may contain a part of the password
    return url.set(query={**CONNECTION_TIMEOUTS, **url.query})


def _database(url: sqlalchemy.URL) -> BaseStorage:
    """Open the database and create missing tables, one process at a time."""
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).begin() as connection:
        connection.execute(OPENING_LOCK)
        rendered = url.render_as_string(hide_password=False)  # Optuna formats braces in the URL
        tables = RDBStorage(rendered, engine_kwargs={"pool_pre_ping": True})
    # Tables of another Optuna may mean something else: its own storage knows them.
    known = tables.get_head_version() == KNOWN_TABLES
    store = BatchedStorage(tables) if known else get_storage(tables)
    weakref.finalize(store, tables.engine.dispose)  # close the connections with the store
    return store


def _journal(path: Path) -> JournalStorage:
    try:
        path.touch()
        with path.open("rb") as file:
            if not JOURNAL_START.startswith(file.read(len(JOURNAL_START))):
                raise DamagedStudy(
                    f"study {path}: is another file, not a journal of trials; set `storage:` to "
                    "a file of its own"
                )
        return JournalStorage(JournalFile(str(path)))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise StoreFailed(f"study {path}: cannot be opened ({error.strerror or error})") from error


def _damaged(where: str | Path, error: Exception) -> DamagedStudy:
    return DamagedStudy(
        f"study {where}: cannot be read ({error}); set `storage:` to another file to start a new "
        "search"
    )


@contextlib.contextmanager
def translated_errors(where: str) -> Iterator[None]:
    """Translate failures of the store at `where` into errors with one sentence for the user.

    Raises:
        DamagedStudy: a line of the journal cannot be read.
        StoreFailed: the file or the database failed.
    """
    shown = without_credentials(where)
    try:
        yield
    except OSError as error:
        raise StoreFailed(
            f"study {shown}: cannot store another trial ({error.strerror or error}); all trials "
            "so far are kept: solve the problem and run the same command again to continue"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(shown, error) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        if (interrupt := _interrupt_behind(error)) is not None:
            raise interrupt from None
        raise StoreFailed(
            f"storage {shown}: the database failed ({_reason(error)}); the trials that it has "
            "stored are kept: when it is back, run the same command again to continue"
        ) from error


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt behind a database error that was raised during shutdown."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    return cause


def _reason(error: BaseException) -> str:
    """Return the driver's message without the statements that SQLAlchemy and Optuna add."""
    cause: BaseException = error
    while cause.__context__ is not None and not isinstance(cause, sqlalchemy.exc.DBAPIError):
        cause = cause.__context__
    original = getattr(cause, "orig", None) or cause
    return without_credentials(" ".join(str(original).split()))[:200]
