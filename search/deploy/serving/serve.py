"""Start the server of a split model, and stop it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from search.deploy.serving.app import build_app
from search.utils.format import list_names
from search.utils.reporter import Reporter
from spaces.bundle_files import BUNDLE
from spaces.errors import MergeSearchError
from spaces.split.server import SplitServer, load_server
from spaces.split.split_bundle import SERVER_PART

MOST_CONNECTIONS = 1000
"""Of devices that send, wait, or keep a connection open until the next frame."""
SECONDS_TO_FINISH = 10
"""Requests that run are given so long when the server is stopped."""


class CannotListen(MergeSearchError):
    """The address cannot be listened on."""


@dataclass(frozen=True)
class ServeSettings:
    """Where a server listens, and how it batches."""

    host: str = "127.0.0.1"
    port: int = 8765
    """0: any free one."""
    batch: int = 8
    """Frames that are answered together at most."""
    queue: int = 64
    """Frames that wait at most."""


def serve_split(folder: Path, settings: ServeSettings, reporter: Reporter) -> None:
    """Serve the server's part in a folder, or in its folder `server`, until stopped.

    Raises:
        BadBundle: the folder does not hold the part.
        CannotListen: the address is in use or not of this machine.
        KeyboardInterrupt: a signal has stopped it; running requests were answered.
    """
    with reporter.working("network"):
        server = load_server(_server_folder(folder))
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    reporter.say(_started(server, host, port))
    config = uvicorn.Config(
        build_app(server, settings.batch, settings.queue),
        log_level="warning",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    uvicorn.Server(config).run([listener])


def _server_folder(folder: Path) -> Path:
    below = folder / SERVER_PART
    return below if (below / BUNDLE).is_file() else folder


def _listen(settings: ServeSettings) -> socket.socket:
    try:
        return socket.create_server((settings.host, settings.port))
    except OSError as error:
        raise CannotListen(
            f"{settings.host}:{settings.port}: cannot listen there ({error.strerror}); choose "
            "another --port or --host"
        ) from error


def _started(server: SplitServer, host: str, port: int) -> str:
    models = list_names([*server.contents.specs])
    return f"Answering for {models} (bundle {server.identity}) at http://{host}:{port}/v1/answers"
