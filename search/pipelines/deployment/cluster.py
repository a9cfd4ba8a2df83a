"""Measurements on a cluster: each worker loads the models of a config once."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from search.config.base import BadConfig
from search.config.run import RunConfig
from search.execution.jobs import Engine, FrameJob, FrameShard, ResultT
from search.pipelines.deployment.load import survey_models
from search.utils.progress import silent
from search.utils.reporter import SILENT
from spaces.deployment import Deployment
from spaces.errors import MergeSearchError

PACKAGE = "merge-search"
_loading = threading.Lock()


class WorkerFailed(MergeSearchError):
    """A task failed on a worker; the message names the worker's machine."""


@dataclass(frozen=True)
class DeploymentRecipe:
    """What a worker needs to load the models that this process has loaded."""

    config: str
    """The config as JSON."""
    base: str
    """The folder at which its relative paths start."""
    version: str
    """The version of this package."""
    fingerprints: tuple[tuple[str, str], ...]
    """The fingerprint of each model."""

    @classmethod
    def of(cls, config: RunConfig, deployment: Deployment) -> DeploymentRecipe:
        """Return the recipe of a deployment.

        Raises:
            BadConfig: the caller has loaded a model, which workers cannot do.
        """
        if config.loaded_models:
            name = next(iter(config.loaded_models))
            raise BadConfig(
                f"execution: dask: workers cannot load model {name!r}, which was given as an "
                "object: name its arch and weights instead, or use execution: local"
            )
        return cls(
            json.dumps(config.as_written()),
            str(config.base.resolve()),
            version(PACKAGE),
            tuple(deployment.fingerprints.items()),
        )

    def load(self) -> Deployment:
        """Load the models on a worker.

        Raises:
            WorkerFailed: the version or the weights are not those of the recipe.
            MergeSearchError: a model cannot be loaded here.
        """
        if version(PACKAGE) != self.version:
            raise WorkerFailed(
                f"it has {PACKAGE} {version(PACKAGE)}, and the run {self.version}: install the "
                "same version everywhere"
            )
        config = RunConfig(**json.loads(self.config), base=Path(self.base))
        deployment = survey_models(config, SILENT)
        for name, fingerprint in self.fingerprints:
            if deployment.fingerprints[name] != fingerprint:
                raise WorkerFailed(
                    f"the weights of model {name!r} differ from those of the run: copy the same "
                    "files to every machine"
                )
        return deployment


def cluster_of(config: RunConfig, deployment: Deployment) -> Engine | None:
    """Return the cluster that measures with the config's models; None: this process does it.

    Raises:
        BadConfig: Dask is not installed, or workers cannot load a model.
    """
    if config.execution == "local" or config.dask is None:
        return None
    recipe = DeploymentRecipe.of(config, deployment)
    engine: Engine = _dask().DaskEngine(config.dask, partial(run_on_worker, recipe))
    return engine


def describe_cluster(config: RunConfig) -> str:
    """Return in words which workers a config's cluster has.

    Raises:
        BadConfig: Dask is not installed.
        ClusterFailed: the scheduler does not answer, or has no worker.
    """
    if config.dask is None or isinstance(config.dask, int):
        return f"{config.dask} workers on this machine"
    return f"{_dask().worker_count(config.dask)} workers at {config.dask}"


def _dask() -> ModuleType:
    """Import the engine, whose library is optional."""
    try:
        from search.execution import dask_engine
    except ModuleNotFoundError as error:
        raise BadConfig(
            "execution: dask: Dask is not installed: pip install 'merge-search[dask]'"
        ) from error
    return dask_engine


def run_on_worker(recipe: DeploymentRecipe, job: FrameJob[ResultT], shard: FrameShard) -> ResultT:
    """Do a task on a worker, with the models that it has loaded for an earlier task.

    Raises:
        WorkerFailed: the models or the frames cannot be loaded, or as the job.
    """
    try:
        with _loading:
            deployment = _loaded(recipe)
        return job.run(deployment, shard, silent)
    except MergeSearchError as error:
        raise WorkerFailed(f"worker on {socket.gethostname()}: {error}") from error


@lru_cache(maxsize=1)
def _loaded(recipe: DeploymentRecipe) -> Deployment:
    return recipe.load()
