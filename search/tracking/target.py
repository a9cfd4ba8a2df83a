"""Where in MLflow runs go, and OUT/tracking.json, which says so to those who come later."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from search.config.run import RunConfig
from search.utils.files import make_folder
from search.utils.records import BadRecord, read_record, write_record
from search.utils.redact import without_credentials

ENVIRONMENT = "MLFLOW_TRACKING_URI"
STORE = "mlflow.db"
ARTIFACTS = "mlartifacts"
REMEMBERED = "tracking.json"
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")


class UnknownTarget(BadRecord):
    """It is not known where the runs of a folder go."""


@dataclass(frozen=True)
class Target:
    """Where runs go: a tracking URI, and where a local store keeps its artifacts."""

    uri: str
    experiment: str
    artifacts: str | None

    @classmethod
    def of(cls, config: RunConfig) -> Target:
        """The config's URI, else sqlite beside the run outputs; see `at`."""
        folder = config.base / "out"
        uri = config.mlflow.tracking_uri or f"sqlite:///{folder / STORE}"
        artifacts = (folder / ARTIFACTS).resolve().as_uri()
        target = cls.at(uri, config.mlflow.experiment, artifacts)
        if target.artifacts:
            make_folder(folder)
        return target

    @classmethod
    def at(cls, uri: str, experiment: str, artifacts: str) -> Target:
        """MLFLOW_TRACKING_URI goes before `uri`.

        A server places its artifacts itself. A database used directly would have MLflow put them
        into the folder where the user happens to stand, so they are told to go to `artifacts`.
        """
        uri = os.environ.get(ENVIRONMENT) or uri
        return cls(uri, experiment, artifacts if uri.startswith(DATABASES) else None)


@dataclass(frozen=True)
class StoredTarget:
    """The target in OUT/tracking.json."""

    uri: str
    """Without credentials."""
    experiment: str
    artifacts: str
    """Where a local store keeps the artifacts, as a URI."""


def remember(target: Target, out: Path) -> None:
    """Write where runs go to OUT/tracking.json, but for the credentials; `recall` reads it."""
    stored = StoredTarget(
        uri=without_credentials(_anchored(target.uri)),
        experiment=target.experiment,
        artifacts=target.artifacts or (out / ARTIFACTS).resolve().as_uri(),
    )
    write_record(out / REMEMBERED, stored)


def recall(folder: Path) -> Target:
    """Where runs go by the folder's tracking.json; MLFLOW_TRACKING_URI goes before it.

    Raises:
        UnknownTarget: the file is missing or damaged.
    """
    path = folder / REMEMBERED
    try:
        stored = read_record(StoredTarget, path)
    except BadRecord as error:
        raise UnknownTarget(
            f"{error}; {REMEMBERED} says where runs go, and every run writes it when it starts"
        ) from error
    return Target.at(stored.uri, stored.experiment, stored.artifacts)


def _anchored(uri: str) -> str:
    """A sqlite path that starts where the user stands now is written whole."""
    scheme, slashes, path = uri.partition(":///")
    if scheme != "sqlite" or not slashes:
        return uri
    return f"sqlite:///{Path(path).absolute()}"
