"""How much memory statistics take, computed before any frame is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from search.statistics.rows import BLOCK_BYTES, CODE_BYTES, GridRows
from search.statistics.streaming import PassSettings, pairs_by_grid
from spaces.model_facts import ModelFacts
from spaces.shares import Pair
from spaces.stages import Grid

FLOAT_BYTES = 4
COPIES_OF_A_BATCH = 3
"""Copies of a batch's largest representation: its own, in another memory format, and resized."""
BYTES_OF_A_SOLVED_VALUE = 24
"""Of each value of a donor's rows while it is solved: the rows, and their coordinates in the
donor's components, each in float32 and float64."""
BYTES_OF_A_SQUARE = 32
"""Of each value of its square matrices: products, eigenvectors, and what the solver needs."""


@dataclass(frozen=True)
class StatisticsFootprint:
    """Bytes that statistics take beside the models."""

    rows: int
    """Of the rows of all frames, which are also the bytes of their cache file."""
    batch: int
    """More while the pass runs."""
    solving: int
    """More while the widest donors are solved."""


def measure_footprint(
    facts: Mapping[str, ModelFacts],
    pairs: Sequence[Pair],
    settings: PassSettings,
    frame_counts: Sequence[int],
) -> StatisticsFootprint:
    """Return the bytes for sets of so many frames each, all in memory."""
    sets = [_FrameSetRows(settings, frames) for frames in frame_counts]
    coded = waiting = solving = 0
    for grid, own in pairs_by_grid(pairs, facts).items():
        channels = {
            ref: facts[ref.model].stage(ref.stage).channels for ref in GridRows(tuple(own)).refs
        }
        total, widest = sum(channels.values()), max(channels[pair.donor] for pair in own)
        coded += total * sum(rows.coded_bytes(grid) for rows in sets)
        waiting += total * max(rows.waiting_bytes(grid) for rows in sets)
        solving = max(solving, _solving_bytes(widest, sum(rows.count(grid) for rows in sets)))
    largest = max(math.prod(stage.shape) for fact in facts.values() for stage in fact.stages)
    return StatisticsFootprint(
        coded,
        COPIES_OF_A_BATCH * settings.batch * largest * FLOAT_BYTES + waiting,
        torch.get_num_threads() * solving,
    )


@dataclass(frozen=True)
class _FrameSetRows:
    """The rows of a set of so many frames."""

    settings: PassSettings
    frames: int

    def count(self, grid: Grid) -> int:
        """Return about how many rows a grid has."""
        sampling = self.settings.sampling(self.frames)
        return math.ceil(self.frames * sampling.part) * sampling.count(grid)

    def coded_bytes(self, grid: Grid) -> int:
        """Return the bytes of one channel on a grid: its codes, centres and scales."""
        blocks = math.ceil(self.frames / self.settings.block_frames(self.frames))
        return CODE_BYTES * self.count(grid) + BLOCK_BYTES * blocks

    def waiting_bytes(self, grid: Grid) -> int:
        """Return the bytes of one channel on a grid until a block is complete."""
        in_block = min(self.frames, self.settings.block_frames(self.frames))
        return FLOAT_BYTES * in_block * self.settings.sampling(self.frames).count(grid)


def _solving_bytes(channels: int, rows: int) -> int:
    return channels * rows * BYTES_OF_A_SOLVED_VALUE + min(channels, rows) ** 2 * BYTES_OF_A_SQUARE
