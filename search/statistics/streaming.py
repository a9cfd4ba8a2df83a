"""One streaming pass over the frames: all statistics of all stages; no feature map is stored.

The pass accumulates two families of statistics, both additive over frames:

- *Gram statistics*, images as samples: each batch's U-centred Gram matrix of every stage, and
  the inner products of all pairs of them (the unbiased HSIC estimator of Song et al. 2012,
  summed over batches as in Nguyen et al. 2021).
- *Rows*, positions as samples: for each recipient grid, at a seeded sample of its positions, the
  values of every representation that may be read there, resized to that grid, in 16 bits.
  There are two folds of frames: `fit`, and `held` (every fourth frame is held out).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from search.data.frames import BadFrames, FrameSet, batch_ranges
from search.data.inputs.input_batches import model_batches
from search.statistics.hsic import gram, u_centred
from search.statistics.rows import GridRows, RowCollector
from search.statistics.sampling import HELD_OUT_EVERY as HELD_OUT_EVERY
from search.statistics.sampling import FoldedBatch, PositionSampling, Pyramid, SampledPositions
from search.utils.arrays import FloatMatrix
from spaces.errors import MergeSearchError
from spaces.merged import ModelsByName
from spaces.model_facts import ModelFacts
from spaces.plan import Ref
from spaces.shares import Pair
from spaces.stages import Grid

BlockT = TypeVar("BlockT")
SMALLEST_BATCH = 4
"""The unbiased HSIC estimator divides by n - 3."""
MOST_BLOCKS = 512
"""Blocks of rows of a set of frames, at most; each takes some bytes of its own."""


class BadRepresentation(MergeSearchError):
    """A stage returns NaN or infinite values."""


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` equal parts of the batches, written 3/8; 1/1 is all of them."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise BadFrames(f"shard {self}: write it as K/N with K from 1 to N")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise BadFrames(f"shard {text}: write it as K/N with K from 1 to N")
        return cls(int(number), int(count))

    def of(self, blocks: Sequence[BlockT]) -> Sequence[BlockT]:
        """Return every `count`-th block, so that the parts take equally long."""
        return blocks[self.number - 1 :: self.count]


ALL_BATCHES = Shard()
BatchBlock = Sequence[range]
"""Consecutive batches whose rows are coded together."""


@dataclass(frozen=True)
class PassSettings:
    """Settings of the pass: `batch` frames at a time, `positions` per frame and grid, a seed."""

    batch: int = 32
    positions: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < SMALLEST_BATCH:
            raise BadFrames(
                f"batch {self.batch}: the statistics need batches of {SMALLEST_BATCH} or more"
            )

    def check_frame_count(self, frames: int, held_out: int) -> None:
        """Check that there are enough frames for meaningful statistics.

        `held_out` are the frames beside them that are kept for fidelity.

        Raises:
            BadFrames: all parts together have fewer frames than two batches.
        """
        if frames < 2 * self.batch:
            raise BadFrames(
                f"{frames} frames are fewer than two batches of {self.batch} (statistics.batch), "
                f"as {held_out} of the {frames + held_out} are held out for fidelity "
                "(verify.fidelity_frames): give more frames, or set one of these keys lower"
            )

    def batches(self, frames: FrameSet) -> list[range]:
        """Return the frames of each batch, without a remainder too small for the estimator.

        Raises:
            BadFrames: there are fewer frames than the smallest batch.
        """
        if len(frames) < SMALLEST_BATCH:
            raise BadFrames(
                f"{len(frames)} frames of a part are left for the statistics, which need "
                f"{SMALLEST_BATCH} or more: give more frames, or leave the part out"
            )
        return [b for b in batch_ranges(len(frames), self.batch) if len(b) >= SMALLEST_BATCH]

    def blocks(self, frames: FrameSet) -> list[BatchBlock]:
        """Return the batches in blocks; a shard takes whole blocks.

        Raises:
            BadFrames: there are fewer frames than the smallest batch.
        """
        batches = self.batches(frames)
        size = self.block_frames(len(frames)) // self.batch
        return [batches[start : start + size] for start in range(0, len(batches), size)]

    def block_frames(self, frames: int) -> int:
        """Return how many frames a block has, in a set of so many frames; the last has fewer."""
        batches = frames // self.batch + (frames % self.batch >= SMALLEST_BATCH)
        return self.batch * max(1, -(-batches // MOST_BLOCKS))

    def sampling(self, frames: int) -> PositionSampling:
        """Return which positions are sampled of a set of so many frames."""
        return PositionSampling(self.positions, self.seed, frames)


@dataclass
class Moments:
    """The result of one pass, from which similarities and closed-form maps are computed."""

    refs: tuple[Ref, ...]
    frames: int
    hsic: FloatMatrix
    """(refs, refs): sums over batches of the inner products of U-centred Gram matrices."""
    grids: dict[Grid, GridRows]
    """The sampled rows by grid."""

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return self.hsic.nbytes + sum(rows.nbytes for rows in self.grids.values())

    def merge(self, other: Moments) -> None:
        """Add the moments of the same stages and pairs over other frames."""
        self.frames += other.frames
        self.hsic += other.hsic
        for grid, rows in self.grids.items():
            rows.merge(other.grids[grid])


def accumulate_moments(
    models: ModelsByName,
    facts: Mapping[str, ModelFacts],
    pairs: Sequence[Pair],
    frames: FrameSet,
    settings: PassSettings,
    progress: Callable[[int], None] = lambda frames: None,
    shard: Shard = ALL_BATCHES,
) -> Moments:
    """Run every model once over the frames and return the moments of all pairs.

    A frame's index determines its sampled positions and its fold.

    Raises:
        BadFrames: there are too few frames for a batch, or fewer batches than shards.
        BadRepresentation: a stage returns NaN or infinite values.
    """
    blocks = settings.blocks(frames)
    own_blocks = shard.of(blocks)
    if not own_blocks:
        raise BadFrames(
            f"shard {shard}: {len(frames)} frames make no more than {len(blocks)} parts, of "
            f"whole batches of {settings.batch}; use fewer shards"
        )
    pass_ = StreamingPass(models, facts, pairs, settings, len(frames))
    batches = [batch for block in own_blocks for batch in block]
    for batch in model_batches(frames, batches, models):
        pass_.add(batch.indices, batch.inputs)
        progress(len(batch))
    return pass_.finish()


class StreamingPass:
    """The streaming pass and its state; takes batches of prepared frames, in their order.

    `frame_count` is the number of frames in the whole set: it decides how many are sampled.
    """

    def __init__(
        self,
        models: ModelsByName,
        facts: Mapping[str, ModelFacts],
        pairs: Sequence[Pair],
        settings: PassSettings,
        frame_count: int,
    ) -> None:
        refs = [Ref(name, stage.name) for name, fact in facts.items() for stage in fact.stages]
        self._models = models
        self._sampling = settings.sampling(frame_count)
        self._block_frames = settings.block_frames(frame_count)
        self._device = next(iter(models.values())).device
        self._refs = tuple(refs)
        self._frames = 0
        self._block_start: int | None = None
        self._hsic = torch.zeros((len(refs), len(refs)), dtype=torch.float64)
        by_grid = pairs_by_grid(pairs, facts)
        self._rows = {grid: RowCollector(by_grid[grid]) for grid in by_grid}

    @torch.inference_mode()
    def add(self, indices: range, inputs: Mapping[str, Tensor]) -> None:
        """Run the models on one batch, each on its (frames, channels, height, width) input.

        `indices` are the frames' indices in the whole set.

        Raises:
            BadRepresentation: a stage returns NaN or infinite values.
        """
        batch = FoldedBatch(indices)
        spots = [
            SampledPositions(grid, batch, self._sampling, self._device) for grid in self._rows
        ]
        grams = {}
        for name, model in self._models.items():
            for stage, representation in model.walk(inputs[name]):
                ref = Ref(name, stage)
                grams[ref] = gram(representation)
                self._take(ref, representation, spots)
        self._add_grams(grams)
        self._frames += len(indices)
        if self._block_start is None:
            self._block_start = indices.start
        if indices.stop % self._block_frames == 0:
            self._end_block()

    @torch.inference_mode()
    def _end_block(self) -> None:
        """Code the rows of the batches since the last block."""
        if self._block_start is not None:
            for grid, rows in self._rows.items():
                rows.end_block(self._block_start, self._sampling.weight(grid))
        self._block_start = None

    def finish(self) -> Moments:
        """Return the result of all batches so far, on the CPU."""
        self._end_block()
        grids = {grid: self._rows[grid].finish() for grid in self._rows}
        return Moments(self._refs, self._frames, self._hsic.numpy().copy(), grids)

    def _take(self, ref: Ref, representation: Tensor, spots: Sequence[SampledPositions]) -> None:
        pyramid = Pyramid(representation)
        for spot in spots:
            rows = self._rows[spot.grid]
            if spot.rows and ref in rows.refs:
                rows.take(ref, pyramid.rows(spot), spot.fit_rows)

    def _add_grams(self, grams: Mapping[Ref, Tensor]) -> None:
        stacked = torch.stack([grams[ref] for ref in self._refs]).cpu()
        finite = stacked.isfinite().all(2).all(1)
        if not finite.all():
            ref = self._refs[int((~finite).nonzero()[0])]
            raise BadRepresentation(
                f"{ref} gives NaN or infinite values on these frames; are its weights right?"
            )
        centred = u_centred(stacked).flatten(1)
        self._hsic += centred @ centred.T


def pairs_by_grid(
    pairs: Sequence[Pair], facts: Mapping[str, ModelFacts]
) -> dict[Grid, list[Pair]]:
    """Group the pairs by the recipient's grid, the finest first, pooled features last."""
    by_grid: dict[Grid, list[Pair]] = {}
    for pair in pairs:
        grid = facts[pair.recipient.model].stage(pair.recipient.stage).grid
        by_grid.setdefault(grid, []).append(pair)
    return {grid: by_grid[grid] for grid in sorted(by_grid, key=_coarseness)}


def _coarseness(grid: Grid) -> float:
    return 1 / (grid[0] * grid[1]) if grid else 2.0
