"""Features of frames: the models' representations in two views, pooled to one row per frame.

`appearance` is the second quarter of each model's stages, averaged on a coarse grid; it shows the
light, the weather and the direction of the camera. `content` is each model's last representation;
it shows the objects in the frames. Either view misses most changes of the other kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from search.data.frames import BadFrames, FrameSet, batch_ranges
from search.data.inputs.input_batches import model_batches
from search.statistics.streaming import BadRepresentation
from search.utils.arrays import FloatMatrix
from spaces.deployment import Deployment
from spaces.inputs import PREPARATION_VERSION
from spaces.stages import StagedModel

View = str
"""The name of a view, one of `VIEWS`."""

VIEWS: tuple[View, View] = ("appearance", "content")
APPEARANCE_GRID = 3
"""Rows and columns of the grid of `appearance`; with cells, a turned camera changes the values."""
DESCRIPTION_VERSION = 1
"""Part of the models' key: bump it when the features change."""


@dataclass(frozen=True)
class Description:
    """The features of frames, in the order in which they were taken."""

    models: str
    """The `models_key` of the models that computed them."""
    rows: Mapping[View, FloatMatrix]
    """(frames, features) of each view."""

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def part(self, start: int, stop: int) -> Description:
        """Return the features of the frames from `start` up to, but not including, `stop`."""
        rows = {view: rows[start:stop] for view, rows in self.rows.items()}
        return Description(self.models, rows)


@torch.inference_mode()
def describe(
    deployment: Deployment,
    frames: FrameSet,
    batch: int,
    progress: Callable[[int], None] = lambda frames: None,
) -> Description:
    """Run every model once over the frames, `batch` at a time, and return their features.

    Raises:
        BadFrames: there are no frames.
        BadRepresentation: a stage returns NaN or infinite values.
    """
    if not len(frames):
        raise BadFrames("no frames to describe: give at least one")
    running, rows = deployment.fused_models, {view: list[Tensor]() for view in VIEWS}
    for read in model_batches(frames, batch_ranges(len(frames), batch), running):
        views_by_model = [_views(model, read.inputs[name]) for name, model in running.items()]
        for view, parts in rows.items():
            parts.append(torch.cat([views[view] for views in views_by_model], 1).cpu())
        progress(len(read))
    whole = {view: torch.cat(parts).double().numpy() for view, parts in rows.items()}
    return Description(models_key(deployment), whole)


def models_key(deployment: Deployment) -> str:
    """Return a hash of the models' names, stages, inputs and weights, and of the features'
    version."""
    fingerprints = sorted(deployment.fingerprints.items())
    versions = f"{DESCRIPTION_VERSION}.{PREPARATION_VERSION}"
    return hashlib.sha256(f"{versions} {fingerprints}".encode()).hexdigest()[:16]


def _views(model: StagedModel, inputs: Tensor) -> dict[View, Tensor]:
    """Return (frames, features) of both views."""
    stages = model.layout.stages
    early = stages[len(stages) // 4 : (len(stages) + 1) // 2]
    early_features = []
    for name, representation in model.walk(inputs):
        if name in early:
            early_features.append(_on_grid(representation))
    last = representation.flatten(2).mean(2) if representation.dim() == 4 else representation
    views = dict(zip(VIEWS, (torch.cat(early_features, 1), last), strict=True))
    for view, values in views.items():
        if not values.isfinite().all():
            raise BadRepresentation(
                f"{model.name} gives NaN or infinite values on these frames ({view}); are its "
                "weights right?"
            )
    return views


def _on_grid(representation: Tensor) -> Tensor:
    """Return channel means over each cell of the grid; pooled features stay as they are."""
    if representation.dim() == 4:
        return adaptive_avg_pool2d(representation, APPEARANCE_GRID).flatten(1)
    return representation
