"""One streaming pass over the frames: all statistics of all stages; no feature map is stored.

The pass accumulates two families of statistics, both additive over frames:

- *Gram statistics*, images as samples: each batch's U-centred Gram matrix of every stage, and
  the inner products of all pairs of them (the unbiased HSIC estimator of Song et al. 2012,
  summed over batches as in Nguyen et al. 2021).
- *Second moments*, positions as samples: for each recipient grid, at a seeded sample of its
  positions, the moments of every representation that may be read there, resized to that grid.
  There are two folds of frames: `fit`, and `held` (every fourth frame is held out).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from search.data.frames import BadFrames, FrameSet, batch_ranges
from search.statistics.hsic import gram, u_centred
from search.statistics.sampling import HELD_OUT_EVERY as HELD_OUT_EVERY
from search.statistics.sampling import FoldedBatch, PositionSampling, Pyramid, SampledPositions
from search.statistics.second_moments import GridColumns, SecondMoments
from search.utils.arrays import FloatMatrix
from spaces.errors import MergeSearchError
from spaces.merged import ModelsByName, prepare_inputs
from spaces.model_facts import ModelFacts
from spaces.plan import Ref
from spaces.shares import Pair
from spaces.stages import Grid

FoldName = str
FOLDS: tuple[FoldName, FoldName] = ("fit", "held")
SMALLEST_BATCH = 4
"""The unbiased HSIC estimator divides by n - 3."""
FRAMES_PER_UPDATE = 128
"""Frames whose rows are collected for one matrix product, which is faster with many rows."""


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

    def of(self, batches: Sequence[range]) -> Sequence[range]:
        """Every `count`-th batch, so that the parts take equally long."""
        return batches[self.number - 1 :: self.count]


ALL_BATCHES = Shard()


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


@dataclass
class Moments:
    """The result of one pass, from which similarities and closed-form maps are computed."""

    refs: tuple[Ref, ...]
    frames: int
    hsic: FloatMatrix
    """(refs, refs): sums over batches of the inner products of U-centred Gram matrices."""
    grids: dict[Grid, dict[FoldName, SecondMoments]]
    """Second moments by grid and fold."""

    def at(self, grid: Grid, fold: FoldName) -> SecondMoments:
        """Return the second moments of one grid and fold."""
        return self.grids[grid][fold]

    def merge(self, other: Moments) -> None:
        """Add the moments of the same stages and pairs over other frames."""
        self.frames += other.frames
        self.hsic += other.hsic
        for grid, folds in self.grids.items():
            for fold, moments in folds.items():
                moments.merge(other.at(grid, fold))


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
    batches = shard.of(settings.batches(frames))
    if not batches:
        raise BadFrames(
            f"shard {shard}: {len(frames)} frames make no more than "
            f"{len(settings.batches(frames))} batches of {settings.batch}; use fewer shards"
        )
    pass_ = StreamingPass(models, facts, pairs, settings)
    for indices in batches:
        pictures = [frames[i] for i in indices]
        pass_.add(indices, prepare_inputs(models, pictures))
        progress(len(indices))
    return pass_.finish()


class StreamingPass:
    """The streaming pass and its state; takes batches of prepared frames."""

    def __init__(
        self,
        models: ModelsByName,
        facts: Mapping[str, ModelFacts],
        pairs: Sequence[Pair],
        settings: PassSettings,
    ) -> None:
        channels = {
            Ref(name, stage.name): stage.channels
            for name, fact in facts.items()
            for stage in fact.stages
        }
        self._models = models
        self._sampling = PositionSampling(settings.positions, settings.seed)
        self._device = next(iter(models.values())).device
        self._refs = tuple(channels)
        self._frames = self._waiting = 0
        self._hsic = torch.zeros((len(channels), len(channels)), dtype=torch.float64)
        by_grid = _pairs_by_grid(pairs, facts)
        self._rows = {grid: _GridRows(GridColumns.of(by_grid[grid], channels)) for grid in by_grid}

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
        self._waiting += len(indices)
        if self._waiting >= FRAMES_PER_UPDATE:
            self._add_up()

    @torch.inference_mode()
    def finish(self) -> Moments:
        """Return the moments of all batches so far, on the CPU."""
        self._add_up()
        return Moments(
            self._refs,
            self._frames,
            self._hsic.numpy().copy(),
            {grid: rows.moments() for grid, rows in self._rows.items()},
        )

    def _take(self, ref: Ref, representation: Tensor, spots: Sequence[SampledPositions]) -> None:
        pyramid = Pyramid(representation)
        for spot in spots:
            rows = self._rows[spot.grid]
            if ref in rows.columns.channels:
                rows.take(ref, pyramid.rows(spot), spot.fit_rows)

    def _add_up(self) -> None:
        for rows in self._rows.values():
            rows.add_up()
        self._waiting = 0

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


@dataclass
class _GridRows:
    """The moments of one grid, and the sampled rows that are not added to them yet."""

    columns: GridColumns
    _waiting: dict[FoldName, dict[Ref, list[Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._moments = {fold: SecondMoments(self.columns) for fold in FOLDS}

    def take(self, ref: Ref, rows: Tensor, fit_rows: int) -> None:
        """Collect a batch's rows of one representation; the first `fit_rows` are the fit fold."""
        for fold, part in zip(FOLDS, (rows[:fit_rows], rows[fit_rows:]), strict=True):
            if len(part):
                self._waiting.setdefault(fold, {}).setdefault(ref, []).append(part)

    def moments(self) -> dict[FoldName, SecondMoments]:
        return {fold: moments.cpu() for fold, moments in self._moments.items()}

    def add_up(self) -> None:
        for fold, waiting in self._waiting.items():
            self._moments[fold].add({ref: torch.cat(parts) for ref, parts in waiting.items()})
        self._waiting.clear()


def _pairs_by_grid(
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
