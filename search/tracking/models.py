"""Bundles as MLflow's models: what `mlflow.pyfunc` loads where nothing of the search is installed.

A model belongs to the run of the candidate that it is, and carries the identity of its result.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import spaces

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.tracking import MlflowClient

NEEDED = (
    "effdet", "mlflow", "numpy", "pydantic", "safetensors", "timm", "torch", "torchvision",
)  # fmt: skip
"""What `spaces` and the code that is served import, and no more."""
AT_ONCE = 50


@dataclass(frozen=True)
class RegisteredModels:
    """The models of one result, told from all others by their tags."""

    client: MlflowClient
    experiment: str
    tags: Mapping[str, str]

    def log(self, bundle: Path, name: str, run: str, parameters: Mapping[str, Any]) -> LoggedModel:
        """The bundle in a folder as a model that `run` has made."""
        model = self.client.create_logged_model(
            self.experiment,
            name=name,
            source_run_id=run,
            tags=dict(self.tags),
            params={key: str(value) for key, value in parameters.items()},
            model_type="merged",
        )
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            _write(bundle, folder, model)
            self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.attach(str(model.model_id), run)
        return model

    def attach(self, model: str, run: str) -> None:
        """Show the model on a run's page."""
        self.client.log_outputs(run, [LoggedModelOutput(model, step=0)])

    def keep_only(self, runs: Collection[str]) -> set[str]:
        """Delete every model of this result that is not whole, or that none of these runs made;
        returns the ids of the others."""
        kept = set()
        for model in self._models():
            if model.source_run_id in runs and model.status == LoggedModelStatus.READY:
                kept.add(str(model.model_id))
            else:
                self.client.delete_logged_model(model.model_id)
        return kept

    def _models(self) -> list[LoggedModel]:
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self.tags.items())
        return list(
            self.client.search_logged_models(
                [self.experiment], filter_string=wanted, max_results=AT_ONCE
            )
        )


def _write(bundle: Path, folder: Path, model: LoggedModel) -> None:
    """The folder of MLflow's model: the bundle, the code that runs it, and what that needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of what is its own
        # Seconds, which only those wait for who log a model.
        import mlflow.pyfunc
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        frames = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
        described = Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            run_id=model.source_run_id,
            model_id=model.model_id,
        )
        mlflow.pyfunc.save_model(
            folder,
            mlflow_model=described,
            python_model=str(files("search.tracking").joinpath("served.py")),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(Path(spaces.__file__).parent)],
            signature=ModelSignature(inputs=Schema([frames])),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDED],
        )
