"""How far the taps of a merged model are from those of the unmerged models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.plan import Ref
from spaces.trainable_maps import channel_deviations

MOMENTS_WEIGHT = 0.1


@dataclass(frozen=True)
class TapLoss:
    """One minus the mean cosine of the taps' deviations from their means, position by position.

    A squared error is smallest for predictions that vary less than what they predict, which costs
    merged networks more accuracy than it gains. The cosine does not depend on how much a tap
    varies; its means and deviations per channel, compared with a small weight, keep that as it is.
    """

    means: Mapping[Ref, Tensor]
    """By tap, (channels,), over the recorded views."""
    deviations: Mapping[Ref, Tensor]

    @classmethod
    def of(cls, taps: Mapping[Ref, Tensor]) -> TapLoss:
        """Return the loss against unmerged taps, each (views, channels, ...)."""
        moments = {ref: _moments(values.float()) for ref, values in taps.items()}
        return cls(
            {ref: mean for ref, (mean, _) in moments.items()},
            {ref: deviation for ref, (_, deviation) in moments.items()},
        )

    def __call__(self, merged: Mapping[Ref, Tensor], unmerged: Mapping[Ref, Tensor]) -> Tensor:
        """Return the loss of a batch, the mean over its taps."""
        losses = [self._of_tap(ref, values, unmerged[ref]) for ref, values in merged.items()]
        return torch.stack(losses).mean()

    def _of_tap(self, ref: Ref, merged: Tensor, unmerged: Tensor) -> Tensor:
        shape = (-1, *(1 for _ in merged.shape[2:]))
        mean, size = self.means[ref].view(shape), self.deviations[ref].square().mean()
        cosines = F.cosine_similarity(merged - mean, unmerged - mean, dim=1)
        own_mean, own_deviation = _moments(merged)
        target_mean, target_deviation = _moments(unmerged)
        off = (own_mean - target_mean).square() + (own_deviation - target_deviation).square()
        return 1 - cosines.mean() + MOMENTS_WEIGHT * off.mean() / size


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each channel."""
    rows = values.movedim(1, 0).flatten(1)
    return rows.mean(1), channel_deviations(values)
