"""Moments without some of their frames: maps fitted on them have never seen these frames.

Rows are additive over frames, so that leaving frames out gives, to the last bit, the rows of the
others as they were coded. No frame is read again.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from search.statistics.rows import Block, CodedRows, GridRows
from search.statistics.sampling import HELD_OUT_EVERY
from search.statistics.streaming import Moments, PassSettings
from spaces.plan import Ref
from spaces.shares import Pair
from spaces.stages import Grid


def folds_of(frames: int, count: int) -> list[range]:
    """Return the indices of `frames` frames in at most `count` folds of about the same size.

    A fold is consecutive frames: frames that follow each other look alike, and a map that was
    fitted on the neighbours of a frame has as good as seen it.
    """
    bounds = [frames * k // count for k in range(count + 1)]
    folds = (range(start, stop) for start, stop in itertools.pairwise(bounds))
    return [fold for fold in folds if fold]


def moments_of_pairs(moments: Moments, pairs: Collection[Pair]) -> Moments:
    """Return the moments of a few pairs only; nothing is copied."""
    grids = {}
    for grid, rows in moments.grids.items():
        own = GridRows(tuple(pair for pair in rows.pairs if pair in pairs), rows.blocks)
        own.coded = {ref: rows.coded[ref] for ref in own.refs if rows.blocks}
        if own.pairs:
            grids[grid] = own
    return Moments(moments.refs, moments.frames, moments.hsic.copy(), grids)


def moments_without(
    moments: Moments, frames: Collection[int], settings: PassSettings, frame_count: int
) -> Moments:
    """Return the moments of a whole pass without the rows of some frames.

    `frames` are indices in the set of `frame_count` frames that the pass with these settings took.
    The sums of Gram matrices, which no map depends on, stay those of all frames.
    """
    owners = RowOwners(settings, frame_count)
    grids = {
        grid: _rows_without(rows, frozenset(frames), owners, grid)
        for grid, rows in moments.grids.items()
    }
    return replace(moments, hsic=moments.hsic.copy(), grids=grids)


class RowOwners:
    """Says which frame each row of a pass belongs to."""

    def __init__(self, settings: PassSettings, frame_count: int) -> None:
        self._sampling = settings.sampling(frame_count)
        self._block_frames = settings.block_frames(frame_count)
        self._frame_count = frame_count

    def of(self, block: Block, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return the frame of each row of a block, (fit rows,) and (held-out rows,)."""
        last = min(block.first_frame + self._block_frames, self._frame_count)
        sampled = filter(self._sampling.takes, range(block.first_frame, last))
        folds: tuple[list[int], list[int]] = ([], [])
        for frame in sampled:
            folds[frame % HELD_OUT_EVERY == HELD_OUT_EVERY - 1].append(frame)
        count = self._sampling.count(grid)
        # the last frames of a set are not in the pass if they are too few for a batch
        fit, held = (torch.tensor(fold).repeat_interleave(count) for fold in folds)
        return fit[: block.fit], held[: block.held]


def _rows_without(
    rows: GridRows, frames: frozenset[int], owners: RowOwners, grid: Grid
) -> GridRows:
    left_out = torch.tensor(sorted(frames))
    blocks: list[Block] = []
    row_masks: list[Tensor] = []
    block_mask: list[bool] = []
    for block in rows.blocks:
        fit, held = (~torch.isin(fold, left_out) for fold in owners.of(block, grid))
        row_masks += (fit, held)
        smaller = replace(block, fit=int(fit.sum()), held=int(held.sum()))
        block_mask.append(smaller.rows > 0)
        if smaller.rows:
            blocks.append(smaller)
    kept = GridRows(rows.pairs, tuple(blocks))
    if blocks:
        kept_rows, kept_blocks = torch.cat(row_masks), torch.tensor(block_mask)
        kept.coded = dict(_selected(rows, kept_rows, kept_blocks))
    return kept


def _selected(
    rows: GridRows, kept_rows: Tensor, kept_blocks: Tensor
) -> Iterator[tuple[Ref, CodedRows]]:
    for ref, coded in rows.coded.items():
        yield (
            ref,
            CodedRows(
                coded.codes[kept_rows], coded.centres[kept_blocks], coded.scales[kept_blocks]
            ),
        )
