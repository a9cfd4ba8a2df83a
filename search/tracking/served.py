"""The merged models as MLflow loads and serves them.

The input is a uint8 array (frames, height, width, 3). The output holds every model's answer: of a
classifier an array (frames, classes) of logits; of a detector for each frame `boxes` (corners in
its pixels), `scores` and `classes` (from 1), by falling score.

Needs the packages of requirements.txt; `spaces`, which merges, is included as code.
"""

import mlflow
import numpy as np

import spaces

if getattr(spaces, "__distribution__", "") != "merge-search":
    raise ImportError(
        f"{spaces.__file__} is another package named `spaces`, not that of merge-search: remove "
        "it from the environment that serves this model"
    )


class Merged(mlflow.pyfunc.PythonModel):
    """A bundle behind MLflow's interface."""

    def load_context(self, context):
        self.bundle = spaces.load_bundle(context.artifacts["bundle"])

    def predict(self, context, model_input: np.ndarray, params=None):
        frames = [np.ascontiguousarray(frame) for frame in model_input]
        answers = self.bundle(frames)
        return {
            name: answer.numpy()
            if self.bundle.tasks[name] == "classification"
            else [
                {part: tensor.numpy() for part, tensor in detections._asdict().items()}
                for detections in answer
            ]
            for name, answer in answers.items()
        }


mlflow.models.set_model(Merged())
