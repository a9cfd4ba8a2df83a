"""Fixtures over `servers`; a module that wants them names this one in its `pytest_plugins`."""

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
    """The server of the whole session, running. Every test logs to an experiment of its own."""
    only_server.start()
    return only_server
