"""Sampled positions of a grid, and the values of a representation there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.adapters import resize
from spaces.stages import Grid

HELD_OUT_EVERY = 4
"""Every fourth frame is held out."""
GOLDEN_RATIO = (5**0.5 - 1) / 2
ROOT_OF_TWO = 2**0.5 - 1
MOST_ROWS = 8192
"""Rows of a grid that are kept of a set of frames, at most (give or take a few)."""


@dataclass(frozen=True)
class PositionSampling:
    """At most `positions` of each frame and grid, drawn from `seed` and the frame's index.

    There are fewer of each frame where all `frames` of the set would give more than `MOST_ROWS`
    on a grid, and then fewer frames. A frame's index decides, and nothing of other frames: so
    shards sample what a single pass samples.
    """

    positions: int
    seed: int
    frames: int = 1

    def count(self, grid: Grid) -> int:
        """Return the number of positions of each sampled frame that are sampled on the grid."""
        return min(self._wanted(grid), max(1, MOST_ROWS // self.frames))

    def weight(self, grid: Grid) -> float:
        """Return how many positions a row stands for: 1 where there is no need to sample fewer.

        With these weights, sets of many and of few frames are added as if all were sampled alike.
        """
        return self._wanted(grid) / self.count(grid) / self.part

    def takes(self, frame: int) -> bool:
        """Return whether rows of a frame are sampled."""
        return (self._start + frame * ROOT_OF_TWO) % 1.0 < self.part

    def _wanted(self, grid: Grid) -> int:
        return 1 if grid is None else min(self.positions, grid[0] * grid[1])

    @property
    def part(self) -> float:
        """The part of the frames that is sampled."""
        return min(1.0, MOST_ROWS / self.frames)

    @cached_property
    def _start(self) -> float:
        return float(np.random.default_rng((self.seed, 1)).random())


@dataclass(frozen=True)
class FoldedBatch:
    """The frames of a batch, divided into the two folds: fit first, then held out."""

    indices: range
    """The frames' indices in the whole set."""

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Places in the batch, those of the fit fold first."""
        return tuple(sorted(range(len(self.indices)), key=lambda k: (self.is_held_out(k), k)))

    def is_held_out(self, place: int) -> bool:
        """Return whether the frame at a place in the batch is in the held-out fold."""
        return self.indices[place] % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


class SampledPositions:
    """The sampled positions of one grid in one batch; the rows of the fit fold come first."""

    def __init__(
        self, grid: Grid, batch: FoldedBatch, sampling: PositionSampling, device: torch.device
    ) -> None:
        self.grid = grid
        per_frame = sampling.count(grid)
        sampled = [k for k in batch.order if sampling.takes(batch.indices[k])]
        self.rows = len(sampled) * per_frame
        self.fit_rows = sum(not batch.is_held_out(k) for k in sampled) * per_frame
        self._device = device
        frames = np.array(sampled, dtype=np.int64)
        self._frames = torch.from_numpy(np.repeat(frames, per_frame)).to(device)
        places = _places(grid, frames + batch.indices.start, per_frame, sampling.seed)
        self._places = torch.from_numpy(places).to(device)
        self._taps: dict[Grid, tuple[Tensor, Tensor]] = {}

    def direct(self, rows: Tensor) -> Tensor:
        """Return the sampled rows of (frames x positions of this grid, channels)."""
        size = 1 if self.grid is None else self.grid[0] * self.grid[1]
        return rows.index_select(0, self._frames * size + self._places)

    def interpolated(self, rows: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the sampled rows, interpolated from the rows of another grid.

        The resize from that grid to this one has to be bilinear.
        """
        if grid not in self._taps:
            self._taps[grid] = self._bilinear(grid)
        index, weight = self._taps[grid]
        return F.embedding_bag(index, rows, per_sample_weights=weight.to(rows.dtype), mode="sum")

    def _bilinear(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the rows around each sampled position, (samples, up to 4), and their weights."""
        assert self.grid is not None
        row, column = self._places // self.grid[1], self._places % self.grid[1]
        (i, u), (j, v) = (
            (index.to(self._device)[at], weight.to(self._device)[at])
            for (index, weight), at in (
                (_neighbours(grid[0], self.grid[0]), row),
                (_neighbours(grid[1], self.grid[1]), column),
            )
        )
        index = (self._frames[:, None] * grid[0] + i)[:, :, None] * grid[1] + j[:, None, :]
        return index.flatten(1), (u[:, :, None] * v[:, None, :]).flatten(1)


class Pyramid:
    """One representation of a batch, resized to any grid; coarser grids reuse finer ones."""

    def __init__(self, representation: Tensor) -> None:
        if representation.dim() == 4:  # rows of it need no copy
            representation = representation.contiguous(memory_format=torch.channels_last)
        self._own = representation
        self._by_grid: dict[Grid, Tensor] = {_grid_of(representation): representation}

    def rows(self, spots: SampledPositions) -> Tensor:
        """Return the values (samples, channels) of `resize` to the samples' grid."""
        grid = _grid_of(self._own)
        if grid is not None and spots.grid is not None and not _pools(grid, spots.grid):
            return spots.interpolated(_as_rows(self._own), grid)
        return spots.direct(_as_rows(self.at(spots.grid)))

    def at(self, grid: Grid) -> Tensor:
        """Return the representation resized to a grid, as by `resize`.

        Halving a grid repeatedly equals pooling it in one step.
        """
        if grid not in self._by_grid:
            self._by_grid[grid] = self._coarser(grid)
        return self._by_grid[grid]

    def _coarser(self, grid: Grid) -> Tensor:
        own = _grid_of(self._own)
        if own is None:
            return resize(self._own, grid)
        if grid is None:
            smallest = min(
                (resized_grid for resized_grid in self._by_grid if resized_grid),
                key=lambda g: g[0] * g[1],
            )
            even = _is_halved(own, smallest)
            return resize(self._by_grid[smallest] if even else self._own, None)
        if _is_halved(own, grid):
            return F.avg_pool2d(self.at((2 * grid[0], 2 * grid[1])), 2)
        return resize(self._own, grid)


def _as_rows(values: Tensor) -> Tensor:
    """Return (batch x positions, channels), without a copy if the tensor is channels-last."""
    if values.dim() == 2:
        return values
    return values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])


def _grid_of(values: Tensor) -> Grid:
    return None if values.dim() == 2 else (values.shape[2], values.shape[3])


def _pools(grid: tuple[int, int], coarser: tuple[int, int]) -> bool:
    """Return whether `resize` averages, or has nothing to do, instead of interpolating."""
    both = all(big >= 2 * small for big, small in zip(grid, coarser, strict=True))
    return grid == coarser or both


def _is_halved(grid: tuple[int, int], coarser: tuple[int, int]) -> bool:
    """Return whether halving both sides of the grid, any number of times, gives the coarser."""
    times, rest = divmod(grid[0], coarser[0])
    same = rest == 0 and grid[1] == times * coarser[1]
    return same and times & (times - 1) == 0


def _places(
    grid: Grid, frames: np.ndarray[tuple[int], np.dtype[np.int64]], count: int, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return evenly spaced positions of each frame, (frames x count,), each from its own start.

    The starts form a golden-ratio sequence. So over the frames every position is sampled equally
    often, and the positions of a frame depend only on the seed and its index.
    """
    size = 1 if grid is None else grid[0] * grid[1]
    starts = (np.random.default_rng(seed).random() + frames * GOLDEN_RATIO) % 1.0
    return ((starts[:, None] + np.arange(count)) * (size / count)).astype(np.int64).ravel()


@cache
def _neighbours(size: int, target: int) -> tuple[Tensor, Tensor]:
    """Return places along a side, (target, 1 or 2), and their weights, as `resize` has them."""
    one_hot = torch.eye(size).reshape(1, size, size, 1)
    weights = resize(one_hot, (target, 1))[0, :, :, 0].T
    largest = weights.topk(min(2, size), dim=1)
    return largest.indices, largest.values
