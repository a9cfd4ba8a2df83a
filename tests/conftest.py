"""Fixtures and settings for all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from networks import Zoo, ZooDeployment
from postgres import Postgres
from quick import shorten_stopwatch

# The same examples on every machine, and no deadline: a network is slow the first time it runs.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")

pytest_plugins = [
    "tiny_fixtures",
    "server_fixtures",
    "command_fixtures",
    "search_fixtures",
    "browser_fixtures",
]

LONGEST = ("test_watch_", "test_rounds", "test_killed_", "test_workers", "test_run")
"""Files that take minutes come first, so that all cores are busy to the end."""


def pytest_configure() -> None:
    shorten_stopwatch()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, since tests of servers and of killed processes wait."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.name.startswith(LONGEST))


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each config name its own MLflow store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def street(zoo: Zoo) -> ZooDeployment:
    """A linear-bottleneck classifier, one with convolutions after its pool, residual, detector."""
    return zoo.deployment(
        {
            "b0": "timm/efficientnet_b0",
            "v3": "timm/mobilenetv3_large_100",
            "r50": "timm/resnet50",
            "det": "effdet/tf_efficientdet_lite0",
        }
    )


@pytest.fixture(scope="session")
def two_copies(zoo: Zoo) -> Callable[[str], ZooDeployment]:
    """Return two copies of a network: equal weights, other names, no tensor in common."""
    return lambda arch: zoo.deployment({"left": arch, "right": arch})


@pytest.fixture(scope="session")
def only_postgres() -> Iterator[Postgres]:
    # not in pytest's folder: the server runs as the user nobody, who has no access to it
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def postgres(only_postgres: Postgres) -> Postgres:
    """Return the server of the session, running."""
    only_postgres.start()
    return only_postgres


@pytest.fixture
def database(postgres: Postgres) -> str:
    """Return the URL of an empty database."""
    return postgres.new_database()
