"""Where trials are kept: a journal file beside the results, or a PostgreSQL database."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend

from search.study.storage_url import POSTGRESQL
from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError

ENDED = "datetime_complete"
"""Only the journal's line that ends a trial says when."""
BEGINNING = b'{"op_code":'
"""Of every line of a journal."""
PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
"""libpq's words for: a server that says nothing is given up after 10 s, one that falls silent
after 30 s. What the URL says goes before."""
ONE_OPENS = sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext('merge-search'))")


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
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what fails is told by us, once
    if not POSTGRESQL.match(where):
        return _journal(Path(where))
    with speaking_for(where):
        try:
            return _database(_address(where))
        except ImportError as error:
            raise StoreFailed(
                f"storage {without_credentials(where)}: the PostgreSQL driver is not installed; "
                "pip install 'merge-search[postgresql]'"
            ) from error


def open_known_store(where: str) -> BaseStorage:
    """The same, but a file that is not there is not made."""
    if not POSTGRESQL.match(where) and not Path(where).is_file():
        raise StoreFailed(f"study {where}: there is no such file")
    return open_store(where)


def _address(where: str) -> sqlalchemy.URL:
    try:
        url = sqlalchemy.make_url(POSTGRESQL.sub("postgresql+psycopg://", where, count=1))
    except (ValueError, sqlalchemy.exc.ArgumentError):
        raise StoreFailed(
            "the storage's address cannot be read; write it as "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with @, / and : in the password as "
            "%40, %2F and %3A"
        ) from None  # what went wrong may hold part of the password
    return url.set(query={**PATIENCE, **url.query})


def _database(url: sqlalchemy.URL) -> BaseStorage:
    """Its tables are made if need be, by one process at a time."""
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).begin() as waiting:
        waiting.execute(ONE_OPENS)
        rendered = url.render_as_string(hide_password=False)  # Optuna would format raw braces
        tables = RDBStorage(rendered, engine_kwargs={"pool_pre_ping": True})
    store = get_storage(tables)
    weakref.finalize(store, tables.engine.dispose)  # the server hears when a store is left
    return store


def _journal(path: Path) -> JournalStorage:
    try:
        path.touch()
        with path.open("rb") as file:
            if not BEGINNING.startswith(file.read(len(BEGINNING))):
                raise ValueError("it begins as no journal does")
        return JournalStorage(JournalFile(str(path)))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise StoreFailed(f"study {path}: cannot be opened ({error.strerror or error})") from error


def _damaged(where: str | Path, error: Exception) -> DamagedStudy:
    return DamagedStudy(
        f"study {where}: cannot be read ({error}); remove it to start the search afresh"
    )


@contextlib.contextmanager
def speaking_for(where: str) -> Iterator[None]:
    """A store's failures become one sentence; what it holds already stays there."""
    shown = without_credentials(where)
    try:
        yield
    except OSError as error:
        raise StoreFailed(
            f"study {shown}: cannot keep another trial ({error.strerror or error}); all trials "
            "so far are kept: put it right and run the same command again to go on"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(shown, error) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        if (stop := _stop_within(error)) is not None:
            raise stop from None
        raise StoreFailed(
            f"storage {shown}: the database failed ({_reason(error)}); what it has taken is "
            "kept: when it is back, run the same command again to go on"
        ) from error


def _stop_within(error: BaseException) -> KeyboardInterrupt | None:
    """What told us to stop, where the database failed only as it was let go of."""
    within = error.__context__
    while within is not None and not isinstance(within, KeyboardInterrupt):
        within = within.__context__
    return within


def _reason(error: BaseException) -> str:
    """What the driver said, without the statement that SQLAlchemy and Optuna wrap it into."""
    said: BaseException = error
    while said.__context__ is not None and not isinstance(said, sqlalchemy.exc.DBAPIError):
        said = said.__context__
    first = getattr(said, "orig", None) or said
    return without_credentials(" ".join(str(first).split()))[:200]
