"""A metric that weights a share's errors by the Fisher information of the model's answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from search.data.frames import FrameSet, batch_ranges
from search.data.inputs.input_batches import model_batches
from search.metrics.base import Metric
from search.statistics.observed import Observed
from search.utils.arrays import FloatMatrix
from search.utils.progress import Progress, silent
from spaces.plan import Ref, Share
from spaces.stages import StagedModel
from spaces.tasks.registry import TASKS

DRAWS = 4
"""Random projections per batch."""
FISHER_BATCH = 16
"""Frames per backward pass."""


class WeightedExplained(Metric):
    """Held-out R^2 with each direction of the recipient weighted by its effect on the answer.

    It is 1 - tr(F E) / tr(F S), with the second moments E of the residual, the covariance S of
    the recipient, and the Fisher information F of the answer about the recipient's
    representation.

    Source: the Fisher information metric, Amari 1998; as weights of a reconstruction error it is
    the Gauss-Newton approximation of the divergence between the answers.
    """

    name = "weighted_r2"
    label = "R² weighted by what the answer reacts to"

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        models = observed.deployment.fused_models
        recipients = dict.fromkeys(share.recipient.model for share in shares)
        weights: dict[Ref, FloatMatrix] = {}
        for name in recipients:
            weights |= fisher(models[name], observed.held_out)
        values = {}
        for share in shares:
            residual, weight = observed.statistics.residual(share), weights[share.recipient]
            error, total = np.sum(weight * residual.error), np.sum(weight * residual.spread)
            # an answer that does not depend on the representation loses nothing
            values[share] = 1 - float(error / total) if total > 0 else 1.0
            progress(1)
        return values


def fisher(model: StagedModel, frames: FrameSet) -> dict[Ref, FloatMatrix]:
    """Return the Fisher information of the answer about each representation.

    Each matrix is (channels, channels), summed over positions and averaged over frames. It is
    estimated by `DRAWS` seeded random projections of the answer's amplitudes, see
    `spaces.tasks.task`: the product of their Jacobian with itself is the Fisher information. One
    backward pass per projection serves all stages.
    """
    sums: dict[Ref, FloatMatrix] = {}
    for batch in model_batches(frames, batch_ranges(len(frames), FISHER_BATCH), {"": model}):
        representations, amplitudes = _traced(model, batch.inputs[""])
        generator = torch.Generator().manual_seed(batch.indices.start)
        for _ in range(DRAWS):
            draw = torch.randn(amplitudes.shape, generator=generator).to(amplitudes.device)
            gradients = torch.autograd.grad(
                (amplitudes * draw).sum(), list(representations.values()), retain_graph=True
            )
            for ref, gradient in zip(representations, gradients, strict=True):
                sums[ref] = sums.get(ref, 0.0) + _squared(gradient)
    return {ref: total / (len(frames) * DRAWS) for ref, total in sums.items()}


def _traced(model: StagedModel, inputs: Tensor) -> tuple[dict[Ref, Tensor], Tensor]:
    """Return every representation, and the amplitudes of the answer, with gradients."""
    with torch.enable_grad():
        stages = dict(model.walk(inputs.requires_grad_()))
        comparable = model.comparable([stages[tap] for tap in model.layout.taps])
        amplitudes = TASKS[model.task].amplitudes(comparable)
    return {Ref(model.name, stage): value for stage, value in stages.items()}, amplitudes


def _squared(gradient: Tensor) -> FloatMatrix:
    """Return a gradient's products, (channels, channels), summed over frames and positions."""
    rows = gradient if gradient.dim() == 2 else gradient.permute(0, 2, 3, 1).flatten(0, 2)
    rows = rows.double()
    return np.asarray((rows.T @ rows).cpu().numpy())
