"""Log bundles as models that `mlflow.pyfunc` loads without an installed merge-search.

A model belongs to the run of its candidate, and a tag of it holds the identity of the result.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.tracking import MlflowClient

import spaces

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from spaces.bundle import BundleContents

NEEDED = (
    "effdet", "mlflow", "numpy", "pillow", "pydantic", "safetensors", "timm", "torch",
    "torchvision",
)  # fmt: skip
"""The packages that `spaces` and the served code import."""
MODELS_PER_SEARCH = 50


@dataclass(frozen=True)
class ResultModels:
    """The logged models of one result, recognised by their tags."""

    client: MlflowClient
    experiment: str
    tags: Mapping[str, str]

    def log(self, bundle: Path, name: str, run: str, parameters: Mapping[str, Any]) -> LoggedModel:
        """Log the bundle in a folder as a model made by `run`."""
        model = self.client.create_logged_model(
            self.experiment,
            name=logged_model_name(name),
            source_run_id=run,
            tags=dict(self.tags),
            params={key: str(value) for key, value in parameters.items()},
            model_type="merged",
        )
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            _write_model(bundle, folder, model)
            self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.attach(str(model.model_id), run)
        return model

    def attach(self, model: str, run: str) -> None:
        """Show the model on a run's page."""
        self.client.log_outputs(run, [LoggedModelOutput(model, step=0)])

    def delete_all_but(self, runs: Collection[str]) -> set[str]:
        """Delete the models of this result that are incomplete or that none of these runs made.

        Returns the ids of the remaining models.
        """
        remaining = set()
        for model in self._models():
            if model.source_run_id in runs and model.status == LoggedModelStatus.READY:
                remaining.add(str(model.model_id))
            else:
                self.client.delete_logged_model(model.model_id)
        return remaining

    def _models(self) -> list[LoggedModel]:
        tag_filter = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self.tags.items())
        return list(
            self.client.search_logged_models(
                [self.experiment], filter_string=tag_filter, max_results=MODELS_PER_SEARCH
            )
        )


def logged_model_name(name: str) -> str:
    """Return the name of a run's logged models: MLflow takes a dot in all other names."""
    return name.replace(".", "-")


def _write_model(bundle: Path, folder: Path, model: LoggedModel) -> None:
    """Write the folder of a model: the bundle, the code that runs it, and its requirements."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about its own code
        # Importing these takes seconds, which only logging a model needs.
        import mlflow.pyfunc
        from mlflow.models import Model

        from spaces.bundle import read_bundle_contents

        metadata = Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            run_id=model.source_run_id,
            model_id=model.model_id,
        )
        mlflow.pyfunc.save_model(
            folder,
            mlflow_model=metadata,
            python_model=str(files("search.tracking").joinpath("served.py")),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(Path(spaces.__file__).parent)],
            signature=_signature(read_bundle_contents(bundle)),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDED],
        )


def _signature(contents: BundleContents) -> ModelSignature:
    """Return the signature: frames in, the output of each model out.

    Frames are declared as objects, so that MLflow passes on encoded images and frames of several
    sizes; `served.py` checks them. What is no matrix of numbers is one object per frame.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    from spaces.tasks.registry import TASKS

    frames = TensorSpec(np.dtype(object), (-1,))
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype(np.float32), (-1, contents.specs[name].num_classes or -1), name)
        if TASKS[task].is_matrix
        else TensorSpec(np.dtype(object), (-1,), name)
        for name, task in contents.tasks.items()
    ]
    return ModelSignature(inputs=Schema([frames]), outputs=Schema(outputs))
