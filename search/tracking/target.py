"""The place in MLflow where runs are logged, and OUT/tracking.json, which stores it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from search.config.run import RunConfig
from search.utils.files import CannotWrite, make_folder
from search.utils.records import BadRecord, read_record, write_record
from search.utils.redact import without_credentials

ENVIRONMENT = "MLFLOW_TRACKING_URI"
STORE = "mlflow.db"
ARTIFACTS = "mlartifacts"
TARGET_FILE = "tracking.json"
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")


class UnknownTarget(BadRecord):
    """A folder does not say where its runs are logged."""


@dataclass(frozen=True)
class Target:
    """Where runs are logged."""

    uri: str
    """MLflow's tracking URI."""
    experiment: str
    artifacts: str | None
    """URI of the artifacts of a local store; None if a server places them."""

    @classmethod
    def of(cls, config: RunConfig) -> Target:
        """Return the config's URI, else an sqlite store beside the run outputs; see `at`.

        Raises:
            CannotWrite: neither the config nor the environment has a URI, and the folder of the
                sqlite store cannot be written to.
        """
        folder = config.base / "out"
        uri = config.mlflow.tracking_uri or f"sqlite:///{folder / STORE}"
        target = cls.at(uri, config.mlflow.experiment, _artifacts(folder))
        if not target.artifacts:
            return target
        try:
            make_folder(folder)
        except CannotWrite as error:
            if target.uri == f"sqlite:///{folder / STORE}":
                raise CannotWrite(
                    f"{folder}, the folder of MLflow's store, cannot be written to: set "
                    "mlflow.tracking_uri to a server, or to sqlite:////PATH/mlflow.db"
                ) from error
            return replace(target, artifacts=_artifacts(make_folder(config.out_folder)))
        return target

    @classmethod
    def at(cls, uri: str, experiment: str, artifacts: str) -> Target:
        """Return the target of `uri`; the variable MLFLOW_TRACKING_URI takes precedence.

        A server places its artifacts itself. With a database, MLflow would put them into the
        current folder, so `artifacts` says where they go.
        """
        uri = _with_home(os.environ.get(ENVIRONMENT) or uri)
        return cls(uri, experiment, artifacts if uri.startswith(DATABASES) else None)


@dataclass(frozen=True)
class StoredTarget:
    """The target in OUT/tracking.json."""

    uri: str
    """Without credentials."""
    experiment: str
    artifacts: str
    """Where a local store keeps the artifacts, as a URI."""


def _artifacts(folder: Path) -> str:
    return (folder / ARTIFACTS).resolve().as_uri()


def write_target(target: Target, out: Path) -> None:
    """Write the target without its credentials to OUT/tracking.json."""
    stored = StoredTarget(
        uri=without_credentials(_absolute(target.uri)),
        experiment=target.experiment,
        artifacts=target.artifacts or _artifacts(out),
    )
    write_record(out / TARGET_FILE, stored)


def read_target(folder: Path) -> Target:
    """Read the target from the folder's tracking.json; MLFLOW_TRACKING_URI takes precedence.

    Raises:
        UnknownTarget: The file is missing or damaged.
    """
    path = folder / TARGET_FILE
    try:
        stored = read_record(StoredTarget, path)
    except BadRecord as error:
        raise UnknownTarget(
            f"{error}; {TARGET_FILE} says where runs are logged, and every run writes it first"
        ) from error
    return Target.at(stored.uri, stored.experiment, stored.artifacts)


def _with_home(uri: str) -> str:
    """Expand `~` in a URI that is a path, and in the path of an sqlite URI."""
    start = "sqlite:///" if uri.startswith("sqlite:///~") else ""
    return start + os.path.expanduser(uri.removeprefix(start))


def _absolute(uri: str) -> str:
    """Make the path of an sqlite URI absolute."""
    scheme, slashes, path = uri.partition(":///")
    if scheme != "sqlite" or not slashes:
        return uri
    return f"sqlite:///{Path(path).absolute()}"
