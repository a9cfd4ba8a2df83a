"""Statistics of BatchNorms measured on decoded frames, and merged models that use them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spaces.split.coefficients import Coding

Network = TypeVar("Network", bound=nn.Module)
_MEAN, _VARIANCE, _FIRST_STEPS = "mean", "variance", "first_steps"


def batchnorms(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each layer that normalises by stored means and variances, with its path."""
    for path, part in module.named_modules():
        buffers = dict(part.named_buffers(recurse=False))
        if "running_mean" in buffers and "running_var" in buffers:
            yield path, part


@dataclass(frozen=True, eq=False)
class BatchNormStatistics:
    """What BatchNorms subtract and divide by, by the path of each in a merged model."""

    means: Mapping[str, Tensor]
    """(channels,) each, in float32."""
    variances: Mapping[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module) -> BatchNormStatistics:
        """Return the statistics that a network has; they are its own tensors."""
        norms = dict(batchnorms(module))
        return cls(
            {path: norm.get_buffer("running_mean") for path, norm in norms.items()},
            {path: norm.get_buffer("running_var") for path, norm in norms.items()},
        )

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors by name, for a file."""
        means = {f"{path}.{_MEAN}": mean for path, mean in self.means.items()}
        return means | {f"{path}.{_VARIANCE}": var for path, var in self.variances.items()}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> BatchNormStatistics:
        """Return the statistics that `stored` wrote."""
        paths = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
        return cls(
            {path: tensors[f"{path}.{_MEAN}"] for path in paths},
            {path: tensors[f"{path}.{_VARIANCE}"] for path in paths},
        )


def with_statistics(network: Network, statistics: BatchNormStatistics) -> Network:
    """Return a copy with other statistics; all other tensors are those of the network itself.

    So a server can hold a network with several statistics for hardly more memory than one, and
    changing between them is choosing one of them. BatchNorms that `statistics` do not name keep
    their own.

    Raises:
        ValueError: a path is no BatchNorm of the network, or has another number of channels.
    """
    own = [*network.parameters(), *network.buffers()]
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in own})
    norms = dict(batchnorms(copied))
    for path, mean in statistics.means.items():
        if path not in norms or norms[path].get_buffer("running_mean").shape != mean.shape:
            raise ValueError(f"{path}: no BatchNorm of {len(mean)} channels")
        norms[path].register_buffer("running_mean", mean)
        norms[path].register_buffer("running_var", statistics.variances[path])
    return copied


@dataclass(frozen=True, eq=False)
class StatisticsByCoding:
    """The statistics that frames are answered with, depending on how finely they were coded.

    Range k of codings begins at step `first_steps[k, bands - 1]` and ends where the next range
    begins; finer codings, before the first range, are answered with the network's own statistics.

    Raises:
        ValueError: the ranges are not in order, or not as many as the statistics.
    """

    first_steps: NDArray[np.int32]
    """(ranges, zones), ascending in each column."""
    statistics: tuple[BatchNormStatistics | None, ...]
    """One per range; None for the network's own."""

    def __post_init__(self) -> None:
        if len(self.first_steps) != len(self.statistics) or self.first_steps.ndim != 2:
            raise ValueError("expected as many ranges of codings as statistics")
        if (np.diff(self.first_steps, axis=0) < 0).any():
            raise ValueError("ranges of codings are not in order")

    def range_of(self, coding: Coding) -> int:
        """Return the number of the range of a coding; -1 before the first."""
        zones = self.first_steps.shape[1]
        column = self.first_steps[:, min(max(coding.bands, 1), zones) - 1]
        return int(np.searchsorted(column, coding.step, side="right")) - 1

    def at(self, coding: Coding) -> BatchNormStatistics | None:
        """Return the statistics for frames of a coding; None for the network's own."""
        index = self.range_of(coding)
        return None if index < 0 else self.statistics[index]

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors by name, for a file."""
        tensors = {_FIRST_STEPS: torch.from_numpy(self.first_steps)}
        for index, statistics in enumerate(self.statistics):
            for name, tensor in (statistics.stored() if statistics else {}).items():
                tensors[f"{index}.{name}"] = tensor
        return tensors

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> StatisticsByCoding:
        """Return what `stored` wrote."""
        first_steps = tensors[_FIRST_STEPS].numpy()
        ranges: list[dict[str, Tensor]] = [{} for _ in first_steps]
        for name in sorted({*tensors} - {_FIRST_STEPS}):
            index, _, rest = name.partition(".")
            ranges[int(index)][rest] = tensors[name]
        return cls(
            first_steps,
            tuple(BatchNormStatistics.from_stored(own) if own else None for own in ranges),
        )


class RecalibratedNetwork(Generic[Network]):
    """A network with each of the statistics that frames may need, ready to run."""

    def __init__(self, network: Network, statistics: StatisticsByCoding) -> None:
        self._statistics = statistics
        self._own = network
        self._recalibrated = tuple(
            with_statistics(network, own) if own else network for own in statistics.statistics
        )

    def at(self, coding: Coding) -> Network:
        """Return the network for frames of a coding."""
        index = self._statistics.range_of(coding)
        return self._own if index < 0 else self._recalibrated[index]
