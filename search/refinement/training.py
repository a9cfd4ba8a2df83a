"""Train the linear maps of a plan so that what the recipients make of them stays as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from search.refinement.loss import TapLoss
from search.utils.progress import Progress
from spaces.adapters import LinearMap
from spaces.plan import Ref, Share
from spaces.trainable_maps import TrainableMaps

EPOCHS = 3
BATCH = 32
CALIBRATION = 256
"""Views that the deviations of channels are measured on."""
LEARNING_RATE = 3e-4
"""Of AdamW at the start; it falls to 0 along a cosine."""


Loss = Callable[[Mapping[Ref, Tensor], Mapping[Ref, Tensor]], Tensor]
"""Of merged and unmerged taps."""


def train_maps(
    maps: TrainableMaps, recorded: Mapping[Ref, Tensor], progress: Progress
) -> dict[Share, LinearMap]:
    """Return the trained maps.

    `recorded` holds the unmerged representations of the same views at all sources and taps of
    `maps`, each (views, channels, ...). `progress` counts views.
    """
    loss = TapLoss.of({ref: recorded[ref] for ref in maps.taps})
    minimise(loss, maps, [*maps.parameters()], LEARNING_RATE, recorded, progress)
    return maps.linear_maps()


@torch.enable_grad()
def minimise(
    loss: Loss,
    maps: TrainableMaps,
    parameters: Sequence[nn.Parameter],
    rate: float,
    recorded: Mapping[Ref, Tensor],
    progress: Progress,
) -> None:
    """Train parameters of `maps`, or of the stages behind them; see `train_maps`."""
    count = len(next(iter(recorded.values())))
    maps.calibrate({ref: recorded[ref][:CALIBRATION].float() for ref in maps.sources})
    batches_per_epoch = math.ceil(count / BATCH)
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * batches_per_epoch)
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(count, generator=generator), BATCH):
            read = {ref: recorded[ref][batch].float() for ref in maps.reads}
            optimizer.zero_grad()
            torch.autograd.backward(loss(maps(read), read))
            optimizer.step()
            schedule.step()
            progress(len(batch))
