"""Frames as the models see them: their representations in two views, pooled to a row a frame.

`appearance`, the second quarter of each model's stages, on a coarse grid: light, weather, and
where the camera looks. And `content`, each model's last representation: what is in the frames.
Either is blind to most of what the other sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from search.data.frames import BadFrames, FrameSet, batches
from search.statistics.streaming import BadRepresentation
from spaces.deployment import Deployment
from spaces.merged import prepare_inputs
from spaces.stages import StagedModel

Matrix = NDArray[np.float64]
View = str

VIEWS: tuple[View, View] = ("appearance", "content")
GRID = 3
"""Rows and columns over which `appearance` is averaged: where a camera looks shows in them."""
DESCRIPTION_VERSION = 1
"""Part of the models' key: bump it when something else of them is described."""


@dataclass(frozen=True)
class Description:
    """Frames as the models see them, in the order in which they were taken."""

    models: str
    """A hash of the models that have seen them."""
    rows: Mapping[View, Matrix]
    """(frames, features) of each view."""

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def part(self, start: int, stop: int) -> Description:
        """Of the frames from one on, up to another."""
        rows = {view: rows[start:stop] for view, rows in self.rows.items()}
        return Description(self.models, rows)


@torch.inference_mode()
def describe(
    deployment: Deployment,
    frames: FrameSet,
    batch: int,
    progress: Callable[[int], None] = lambda frames: None,
) -> Description:
    """Run every model once over the frames, `batch` at a time.

    Raises:
        BadFrames: there are none.
        BadRepresentation: a stage gives NaN or infinite values.
    """
    if not len(frames):
        raise BadFrames("no frames to describe: give at least one")
    running, rows = deployment.fused_models, {view: list[Tensor]() for view in VIEWS}
    for indices, pictures in batches(frames, batch):
        inputs = prepare_inputs(running, pictures)
        found = [_views(model, inputs[name]) for name, model in running.items()]
        for view, parts in rows.items():
            parts.append(torch.cat([views[view] for views in found], 1).cpu())
        progress(len(indices))
    whole = {view: torch.cat(parts).double().numpy() for view, parts in rows.items()}
    return Description(models_key(deployment), whole)


def models_key(deployment: Deployment) -> str:
    """A hash of the models' names, stages, inputs and weights, and of what is described."""
    known = sorted(deployment.fingerprints.items())
    return hashlib.sha256(f"{DESCRIPTION_VERSION} {known}".encode()).hexdigest()[:16]


def _views(model: StagedModel, inputs: Tensor) -> dict[View, Tensor]:
    """(frames, features) of both views."""
    stages = model.layout.stages
    early = stages[len(stages) // 4 : (len(stages) + 1) // 2]
    kept = {}
    for name, representation in model.walk(inputs):
        if name in early:
            kept[name] = _on_grid(representation)
    last = representation.flatten(2).mean(2) if representation.dim() == 4 else representation
    views = dict(zip(VIEWS, (torch.cat(list(kept.values()), 1), last), strict=True))
    for view, values in views.items():
        if not values.isfinite().all():
            raise BadRepresentation(
                f"{model.name} gives NaN or infinite values on these frames ({view}); are its "
                "weights right?"
            )
    return views


def _on_grid(representation: Tensor) -> Tensor:
    """Channel means over each cell of the grid; pooled features have no positions."""
    if representation.dim() == 4:
        return adaptive_avg_pool2d(representation, GRID).flatten(1)
    return representation
