"""Where in MLflow runs go, and OUT/tracking.json, which says so to those who come later."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from search.config.run import RunConfig
from search.utils.files import make_folder, write_json
from search.utils.redact import without_credentials
from spaces.errors import MergeSearchError

ENVIRONMENT = "MLFLOW_TRACKING_URI"
STORE = "mlflow.db"
ARTIFACTS = "mlartifacts"
REMEMBERED = "tracking.json"
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")


class UnknownTarget(MergeSearchError):
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


def remember(target: Target, out: Path) -> None:
    """Write where runs go to OUT/tracking.json, but for the credentials; `recall` reads it."""
    held = {
        "uri": without_credentials(_anchored(target.uri)),
        "experiment": target.experiment,
        "artifacts": target.artifacts or (out / ARTIFACTS).resolve().as_uri(),
    }
    write_json(out / REMEMBERED, held)


def recall(folder: Path) -> Target:
    """Where runs go by the folder's tracking.json; MLFLOW_TRACKING_URI goes before it.

    Raises:
        UnknownTarget: the file is missing or damaged.
    """
    path = folder / REMEMBERED
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return Target.at(str(held["uri"]), str(held["experiment"]), str(held["artifacts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownTarget(
            f"{path} does not say where runs go ({type(error).__name__}: {error}); "
            "every run writes it when it starts"
        ) from error


def _anchored(uri: str) -> str:
    """A sqlite path that starts where the user stands now is written whole."""
    scheme, slashes, path = uri.partition(":///")
    if scheme != "sqlite" or not slashes:
        return uri
    return f"sqlite:///{Path(path).absolute()}"
