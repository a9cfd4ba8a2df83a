"""The experiment of a target: made where it is missing, refused where it is deleted."""

from __future__ import annotations

import contextlib

from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from search.tracking.target import Target
from spaces.errors import MergeSearchError

KIND_TAG, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Without it the UI opens an experiment as one of language-model traces."""


class DeletedExperiment(MergeSearchError):
    """The experiment is in MLflow's trash, where it takes no run and blocks its name."""


def find_experiment(client: MlflowClient, target: Target) -> Experiment | None:
    """Return the target's experiment, or None if it does not exist.

    Raises:
        DeletedExperiment: It was deleted and not restored.
    """
    experiment = client.get_experiment_by_name(target.experiment)
    if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise DeletedExperiment(
            f"the experiment {target.experiment!r} was deleted: restore it with `mlflow "
            f"experiments restore --experiment-id {experiment.experiment_id}`, or name another: "
            "mlflow.experiment in the config, and for a run that waits experiment in its "
            "tracking.json"
        )
    return experiment


def experiment_id(client: MlflowClient, target: Target) -> str:
    """Return the id of the target's experiment; make the experiment if it does not exist.

    Raises:
        DeletedExperiment: It was deleted and not restored.
    """
    if find_experiment(client, target) is None:
        with contextlib.suppress(MlflowException):  # another process made it just now
            client.create_experiment(
                target.experiment,
                artifact_location=target.artifacts,
                tags={KIND_TAG: MODEL_TRAINING},
            )
    experiment = find_experiment(client, target)
    if experiment is None:
        raise MlflowException(f"experiment {target.experiment!r} cannot be made")
    return str(experiment.experiment_id)
