"""Fixtures for `servers`; tests/conftest.py loads them as a plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import Server


@pytest.fixture(scope="session")
def only_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(only_server: Server) -> Server:
    """The MLflow server of the session, running. Each test logs to its own experiment."""
    only_server.start()
    return only_server
