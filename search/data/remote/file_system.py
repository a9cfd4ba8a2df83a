"""Files on servers. Within this project only this module imports fsspec.

What fsspec and the libraries behind it raise becomes an `OSError` with one sentence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import unquote

ACCEPT_SECONDS = 10
"""How long a server may take to accept a connection."""
READ_SECONDS = 60
"""How long it may take to send the next bytes."""
ATTEMPTS = 3
"""How often a file is asked for over http or from S3, if the connection fails. The library for
Google Cloud Storage tries six times within half a minute."""
LONGEST_WORDS = 200
"""Characters of the text of an error that are shown."""
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": ACCEPT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"max_attempts": ATTEMPTS},
        },
    },
    "gs": {"use_listings_cache": False},
}
"""Options of each scheme but http, which needs a library for its own."""
TALKATIVE = ("gcsfs", "google.auth")
"""Loggers that print stack traces of what is raised as one sentence in the end."""
ReadT = TypeVar("ReadT")


@dataclass(frozen=True)
class RemoteEntry:
    """A file or a folder on a server."""

    address: str
    name: str
    """Its last part, as a person writes it."""
    is_folder: bool


def read_file(address: str) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it is missing, or the server does not give it.
    """
    return _translated(address, lambda files: bytes(files.cat_file(address)))


def list_folder(address: str) -> list[RemoteEntry]:
    """Return the files and folders in a folder, whose address ends in a slash.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: the server does not list it.
    """
    entries = _translated(address, lambda files: files.ls(address, detail=True))
    return [*_entries(address, entries)]


def _entries(folder: str, entries: list[dict[str, Any]]) -> Iterator[RemoteEntry]:
    """Yield what lies in the folder: a page of links may name other places, too."""
    scheme, _, place = folder.partition("://")
    is_web = scheme.startswith("http")
    for entry in entries:
        _, _, own = entry["name"].rpartition("://")
        is_folder = entry["type"] == "directory"
        name = own.rstrip("/").removeprefix(place) if own.startswith(place) else ""
        if not name or "/" in name or (is_web and ("?" in name or "#" in name)):
            continue
        ending = "/" if is_folder else ""
        yield RemoteEntry(f"{folder}{name}{ending}", unquote(name) if is_web else name, is_folder)


def _translated(address: str, work: Callable[[Any], ReadT]) -> ReadT:
    """Do work with the file system of an address.

    Raises:
        OSError: whatever the work raises, in one sentence.
    """
    scheme, _, _ = address.partition("://")
    attempts_left = 1 if scheme in OPTIONS else ATTEMPTS  # those libraries try again themselves
    while True:
        attempts_left -= 1
        try:
            return work(_file_system(scheme))
        except FileNotFoundError as error:
            raise FileNotFoundError("there is no such file") from error
        except PermissionError as error:
            raise OSError(f"the server refuses it: {_words(error)}") from error
        except ImportError as error:
            raise OSError(
                "the library for such addresses is not installed: pip install "
                "'merge-search[remote]'"
            ) from error
        except Exception as error:  # those of the libraries behind fsspec have no common base
            if _status(error):
                raise OSError(f"the server answers {_status(error)}") from error
            if not attempts_left:
                raise OSError(f"the server does not answer: {_words(error)}") from error


def _status(error: Exception) -> int | None:
    """Return the status code of an answer of a web server that is an error."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) and status >= 400 else None


def _words(error: Exception) -> str:
    """Return the text of an error on one line, without addresses, which may hold secrets."""
    text = re.sub(r"\S*://\S*", "(address)", " ".join(str(error).split()))
    return text[:LONGEST_WORDS] or type(error).__name__


@lru_cache
def _file_system(scheme: str) -> Any:
    """Return the file system of a scheme.

    Raises:
        ImportError: the library behind it is not installed.
    """
    import fsspec

    if scheme.startswith("http"):
        return fsspec.filesystem(scheme, client_kwargs=_web_options(), skip_instance_cache=True)
    for name in TALKATIVE:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    return fsspec.filesystem(scheme, skip_instance_cache=True, **OPTIONS[scheme])


def _web_options() -> dict[str, Any]:
    """Return the options of http: users and passwords come from ~/.netrc."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=ACCEPT_SECONDS, sock_read=READ_SECONDS
    )
    return {"trust_env": True, "timeout": timeout}
