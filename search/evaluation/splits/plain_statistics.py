"""Principal components of the channels of crossing representations, and the ranges of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.data.frames import FrameSet
from search.evaluation.splits.crossing import crossing_batches
from search.evaluation.splits.link_scores import LinkSetup
from search.evaluation.splits.plain_codings import PlainCoder, PlainMap
from spaces.split.split import Split


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What plain codings know of one crossing representation."""

    shape: tuple[int, ...]
    """Of one frame."""
    mean: Tensor
    """(channels,)"""
    components: Tensor
    """(channels, channels): orthonormal rows by falling variance."""
    variances: Tensor
    """(channels,) of the components."""
    component_range: tuple[Tensor, Tensor]
    """(channels,) lowest and highest value of each component."""
    channel_range: tuple[Tensor, Tensor]
    """(channels,) lowest and highest value of each channel, less its mean."""

    def rank(self, explained: float) -> int:
        """Return how many components explain a part of the variance, from 0 to 1."""
        parts = self.variances.cumsum(0) / self.variances.sum()
        return min(1 + int((parts < explained).sum()), len(parts))

    def of_components(self, rank: int) -> PlainMap:
        """Return the map to the first components."""
        low, high = self.component_range
        return PlainMap(self.mean, self.components[:rank], low[:rank], high[:rank], self.shape)

    def of_channels(self) -> PlainMap:
        """Return the map that changes nothing, with a range for each channel."""
        return PlainMap(self.mean, torch.eye(len(self.mean)), *self.channel_range, self.shape)

    def of_tensor(self) -> PlainMap:
        """Return the map that changes nothing, with one range for all channels."""
        low, high = self.channel_range
        lowest, highest = (low + self.mean).min(), (high + self.mean).max()
        nothing, channels = torch.zeros_like(self.mean), torch.eye(len(self.mean))
        bounds = (lowest.expand_as(nothing), highest.expand_as(nothing))
        return PlainMap(nothing, channels, *bounds, self.shape)


@dataclass(frozen=True, eq=False)
class SplitStatistics:
    """What plain codings know of all crossing representations of a split."""

    tensors: tuple[TensorStatistics, ...]

    def principal(self, explained: float, bits: int) -> PlainCoder:
        """Return the coder with the components that explain a part of each one's variance."""
        return PlainCoder(
            tuple(own.of_components(own.rank(explained)) for own in self.tensors), bits
        )

    def ranks(self, explained: float) -> str:
        """Return how many components that are, in words."""
        return " + ".join(f"{t.rank(explained)} of {len(t.mean)}" for t in self.tensors)

    def by_channel(self, bits: int) -> PlainCoder:
        """Return the coder of the channels themselves, each with its own range."""
        return PlainCoder(tuple(own.of_channels() for own in self.tensors), bits)

    def by_tensor(self, bits: int) -> PlainCoder:
        """Return the coder of the channels themselves, all with one range."""
        return PlainCoder(tuple(own.of_tensor() for own in self.tensors), bits)


def split_statistics(
    setup: LinkSetup, splits: Sequence[Split], frames: FrameSet
) -> dict[Split, SplitStatistics]:
    """Run over unlabelled frames twice: for the components, and for their ranges.

    Raises:
        BadSplit: a split does not fit the merged model of its plan.
    """
    moments: dict[Split, list[_Moments]] = {}
    for batch in crossing_batches(setup, splits, frames):
        for split, tensors in batch.items():
            own = moments.setdefault(split, [_Moments(tensor) for tensor in tensors])
            for of_tensor, tensor in zip(own, tensors, strict=True):
                of_tensor.add(tensor)
    ranges = {split: [_Ranges(m) for m in own] for split, own in moments.items()}
    for batch in crossing_batches(setup, splits, frames):
        for split, tensors in batch.items():
            for of_range, tensor in zip(ranges[split], tensors, strict=True):
                of_range.add(tensor)
    return _statistics(ranges)


def _statistics(ranges: Mapping[Split, Sequence[_Ranges]]) -> dict[Split, SplitStatistics]:
    return {
        split: SplitStatistics(tuple(of_range.statistics() for of_range in own))
        for split, own in ranges.items()
    }


def _rows(tensor: Tensor) -> Tensor:
    """Return a (batch, c, ...) tensor as (values, c) rows."""
    rows = tensor.movedim(1, -1).reshape(-1, tensor.shape[1])
    return rows.cpu().float()


class _Moments:
    """Sums of the values of channels, and of their products."""

    def __init__(self, example: Tensor) -> None:
        channels = example.shape[1]
        self.shape = tuple(example.shape[1:])
        self.count = 0
        self.sums = torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, tensor: Tensor) -> None:
        rows = _rows(tensor)
        self.count += len(rows)
        self.sums += rows.sum(0, dtype=torch.float64)
        self.products += (rows.T @ rows).double()

    @property
    def mean(self) -> Tensor:
        return self.sums / self.count

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Return the variances and, as rows, the components, by falling variance."""
        covariance = self.products / self.count - torch.outer(self.mean, self.mean)
        variances, vectors = torch.linalg.eigh(covariance)
        return variances.flip(0).clamp_min(0), vectors.T.flip(0)


class _Ranges:
    """The lowest and highest values of the components and of the channels."""

    def __init__(self, moments: _Moments) -> None:
        self.shape, self.mean = moments.shape, moments.mean.float()
        variances, components = moments.eigen()
        self.variances, self.components = variances.float(), components.float().contiguous()
        self.bounds: list[Tensor] = []

    def add(self, tensor: Tensor) -> None:
        centred = _rows(tensor) - self.mean
        values = centred @ self.components.T
        found = [values.amin(0), values.amax(0), centred.amin(0), centred.amax(0)]
        if self.bounds:
            low, high, channel_low, channel_high = self.bounds
            found = [
                torch.minimum(found[0], low),
                torch.maximum(found[1], high),
                torch.minimum(found[2], channel_low),
                torch.maximum(found[3], channel_high),
            ]
        self.bounds = found

    def statistics(self) -> TensorStatistics:
        low, high, channel_low, channel_high = self.bounds
        return TensorStatistics(
            self.shape,
            self.mean,
            self.components,
            self.variances,
            (low, high),
            (channel_low, channel_high),
        )
