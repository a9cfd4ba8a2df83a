"""Sampled rows equal those of the resized representation, and samples cover all positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.statistics.sampling import (
    HELD_OUT_EVERY,
    MOST_ROWS,
    FoldedBatch,
    PositionSampling,
    Pyramid,
    SampledPositions,
)
from spaces.adapters import resize
from spaces.stages import Grid

CPU = torch.device("cpu")
GRIDS: list[Grid] = [(32, 32), (16, 16), (14, 14), (10, 12), (8, 8), (4, 4), (3, 5), (1, 1), None]


def sampled_places(
    grid: Grid, batch: FoldedBatch, sampling: PositionSampling
) -> list[tuple[int, int]]:
    """Return (frame of the batch, position) of every sample.

    The sampled rows contain their own index.
    """
    size = grid[0] * grid[1] if grid else 1
    rows = torch.arange(len(batch.indices) * size, dtype=torch.float64)[:, None]
    sampled_rows = SampledPositions(grid, batch, sampling, CPU).direct(rows)[:, 0].long()
    return [divmod(int(row), size) for row in sampled_rows]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("own", [(32, 32), (16, 16), (14, 14), (10, 12), (7, 7), (1, 1)])
def test_rows_are_those_of_the_resized_representation(
    own: tuple[int, int], layout: torch.memory_format
) -> None:
    values = torch.randn(6, 5, *own, generator=torch.Generator().manual_seed(1))
    pyramid = Pyramid(values.contiguous(memory_format=layout))
    batch, sampling = FoldedBatch(range(12, 18)), PositionSampling(11, seed=3)
    for grid in GRIDS:
        whole = resize(values, grid)
        whole = whole[:, :, None] if grid is None else whole.flatten(2)
        expected = [
            whole[frame, :, place] for frame, place in sampled_places(grid, batch, sampling)
        ]
        rows = pyramid.rows(SampledPositions(grid, batch, sampling, CPU))
        np.testing.assert_allclose(rows, torch.stack(expected), atol=2e-6)


@pytest.mark.parametrize("grid", [(1, 1), None])
def test_pooled_features_are_their_own_rows(grid: Grid) -> None:
    values = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    batch = FoldedBatch(range(6))
    rows = Pyramid(values).rows(SampledPositions(grid, batch, PositionSampling(11, 0), CPU))
    assert torch.equal(rows, values[list(batch.order)])


@given(st.integers(0, 60), st.integers(4, 20))
def test_the_frames_of_the_fit_come_first(start: int, size: int) -> None:
    batch = FoldedBatch(range(start, start + size))
    is_held_out = [batch.indices[k] % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for k in batch.order]
    assert sorted(batch.order) == list(range(size))
    assert is_held_out == sorted(is_held_out)
    spots = SampledPositions((4, 4), batch, PositionSampling(3, 0), CPU)
    assert spots.fit_rows == 3 * is_held_out.count(False)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(0, 9))
def test_no_position_of_a_frame_is_sampled_twice(h: int, w: int, count: int, seed: int) -> None:
    places = sampled_places((h, w), FoldedBatch(range(8)), PositionSampling(count, seed))
    assert len(set(places)) == len(places) == 8 * min(count, h * w)


def test_over_many_frames_every_position_is_sampled_equally_often() -> None:
    places = sampled_places((7, 7), FoldedBatch(range(490)), PositionSampling(16, seed=5))
    counts = np.bincount([place for _, place in places], minlength=49)
    assert counts.sum() == 490 * 16 and abs(counts - 160).max() <= 3


def test_a_frames_positions_depend_on_its_index_and_the_seed_alone() -> None:
    def of_frame(index: int, batch: range, seed: int) -> list[int]:
        places = sampled_places((9, 9), FoldedBatch(batch), PositionSampling(5, seed))
        return [place for frame, place in places if batch[frame] == index]

    one = of_frame(6, range(0, 8), 1)
    assert one == of_frame(6, range(4, 12), 1) == of_frame(6, range(6, 7), 1)
    assert one != of_frame(6, range(0, 8), 2) and one != of_frame(7, range(0, 8), 1)


@given(st.integers(1, 200_000), st.integers(1, 50), st.integers(0, 9))
def test_rows_stay_few_however_many_frames_there_are(
    frames: int, positions: int, seed: int
) -> None:
    sampling = PositionSampling(positions, seed, frames)
    taken = [frame for frame in range(frames) if sampling.takes(frame)]
    rows = len(taken) * sampling.count((9, 9))
    assert rows <= MOST_ROWS * 1.01 + 1
    assert rows * sampling.weight((9, 9)) == pytest.approx(frames * positions, rel=0.02)
    held_out = sum(frame % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for frame in taken)
    assert held_out == pytest.approx(len(taken) / HELD_OUT_EVERY, rel=0.02, abs=1)
