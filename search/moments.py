"""One streaming pass over the frames: all statistics of all stages, and no feature map kept.

Two families of statistics are accumulated, both additive over frames:

- *Gram statistics*, images as samples: each batch's U-centred Gram matrix of every stage, and
  the inner products of all pairs of them (the unbiased HSIC estimator of Song et al. 2012,
  summed over batches as in Nguyen et al. 2021).
- *Second moments*, positions as samples: for each recipient grid, at a seeded sample of its
  positions, the moments of every representation that may be read there, resized to that grid.
  They are kept for two folds of frames: `fit`, and `held` (every fourth frame).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.frames import BadFrames, FrameSet, batches
from spaces.adapters import resize
from spaces.errors import MergeSearchError
from spaces.facts import ModelFacts
from spaces.inputs import prepare_batch
from spaces.merged import Models
from spaces.plan import Ref
from spaces.shares import Pair
from spaces.stages import Grid

Matrix = NDArray[np.float64]
Key = TypeVar("Key", Ref, Pair)
Fold = str
FOLDS: tuple[Fold, Fold] = ("fit", "held")
HELD_EVERY = 4
SMALLEST_BATCH = 4
"""The unbiased HSIC estimator divides by n - 3."""


class BadRepresentation(MergeSearchError):
    """A stage gives NaN or infinite values."""


@dataclass(frozen=True)
class PassSettings:
    """`batch` frames at a time; `positions` sampled per frame and grid; the seed of the sample."""

    batch: int = 32
    positions: int = 24
    seed: int = 0


@dataclass
class SecondMoments:
    """Sums over the sampled positions of one grid and fold."""

    count: int = 0
    sums: dict[Ref, Matrix] = field(default_factory=dict)
    squares: dict[Ref, Matrix] = field(default_factory=dict)
    """Ref -> (channels, channels) sum of x x^T."""
    products: dict[Pair, Matrix] = field(default_factory=dict)
    """Pair -> (donor channels, recipient channels) sum of x y^T."""

    def add(self, samples: Mapping[Ref, Tensor], pairs: Sequence[Pair]) -> None:
        """Add samples (positions, channels) of every representation, taken at the same places.

        In float64: where the mean is far greater than the deviations, float32 products leave
        moments that are no longer positive definite once they are centred.
        """
        samples = {ref: rows.double() for ref, rows in samples.items()}
        self.count += len(next(iter(samples.values())))
        for ref, rows in samples.items():
            _accumulate(self.sums, ref, rows.sum(0))
            _accumulate(self.squares, ref, rows.T @ rows)
        for donor, group in _by_donor(pairs).items():
            stacked = torch.cat([samples[pair.recipient] for pair in group], dim=1)
            block = samples[donor].T @ stacked
            widths = [samples[pair.recipient].shape[1] for pair in group]
            for pair, part in zip(group, torch.split(block, widths, dim=1), strict=True):
                _accumulate(self.products, pair, part)


@dataclass
class Moments:
    """What one pass leaves behind; all that similarity and the closed-form maps need."""

    refs: tuple[Ref, ...]
    frames: int
    hsic: Matrix
    """(refs, refs) sums over batches of the inner products of U-centred Grams."""
    grids: dict[Grid, dict[Fold, SecondMoments]]

    def at(self, grid: Grid, fold: Fold) -> SecondMoments:
        return self.grids[grid][fold]


def measure(
    models: Models,
    facts: Mapping[str, ModelFacts],
    pairs: Sequence[Pair],
    frames: FrameSet,
    settings: PassSettings,
    progress: Callable[[int], None] = lambda frames: None,
) -> Moments:
    """Run every model once over the frames and return the moments of all pairs.

    Raises:
        BadFrames: there are fewer frames than two batches.
        BadRepresentation: a stage gives NaN or infinite values.
    """
    batch = settings.batch
    if batch < SMALLEST_BATCH:
        raise BadFrames(f"batch {batch}: the statistics need batches of {SMALLEST_BATCH} or more")
    if len(frames) < 2 * batch:
        raise BadFrames(
            f"{len(frames)} frames are fewer than two batches of {batch}: give more frames, or "
            "set statistics.batch lower"
        )
    refs = tuple(Ref(name, stage) for name, fact in facts.items() for stage in fact.layout.stages)
    pass_ = _Pass(refs, _pairs_by_grid(pairs, facts), settings)
    with torch.inference_mode():
        for indices, pictures in batches(frames, batch):
            if len(indices) < SMALLEST_BATCH:
                break  # a remainder too small for the estimator is left out
            representations: dict[Ref, Tensor] = {}
            for name, model in models.items():
                for stage, value in model.walk(prepare_batch(pictures, model.input)):
                    representations[Ref(name, stage)] = value
            pass_.add(indices, representations)
            progress(len(indices))
    return pass_.moments


class _Pass:
    """The state of the streaming pass."""

    def __init__(
        self,
        refs: tuple[Ref, ...],
        by_grid: Mapping[Grid, Sequence[Pair]],
        settings: PassSettings,
    ) -> None:
        self.by_grid = by_grid
        self.settings = settings
        self.moments = Moments(
            refs,
            0,
            np.zeros((len(refs), len(refs))),
            {grid: {fold: SecondMoments() for fold in FOLDS} for grid in by_grid},
        )

    def add(self, indices: range, representations: Mapping[Ref, Tensor]) -> None:
        self.moments.frames += len(indices)
        self._add_grams(representations)
        held = torch.tensor([index % HELD_EVERY == HELD_EVERY - 1 for index in indices])
        for grid, pairs in self.by_grid.items():
            wanted = dict.fromkeys(ref for pair in pairs for ref in (pair.donor, pair.recipient))
            places = _places(grid, indices, self.settings)
            samples = {ref: _sample(resize(representations[ref], grid), places) for ref in wanted}
            for fold, rows in (("fit", ~held), ("held", held)):
                if rows.any():
                    part = {ref: s[rows].flatten(0, 1) for ref, s in samples.items()}
                    self.moments.at(grid, fold).add(part, pairs)

    def _add_grams(self, representations: Mapping[Ref, Tensor]) -> None:
        rows = []
        for ref in self.moments.refs:
            gram = _centred_gram(representations[ref])
            if not np.isfinite(gram).all():
                raise BadRepresentation(
                    f"{ref} gives NaN or infinite values on these frames; are its weights right?"
                )
            rows.append(gram.ravel())
        stacked = np.stack(rows)
        self.moments.hsic += stacked @ stacked.T


def u_centred(gram: Matrix) -> Matrix:
    """The U-centred Gram matrix: <u_centred(K), u_centred(L)> is n (n - 3) unbiased HSIC(K, L).

    Source: Szekely and Rizzo 2014, definition 3; it is Song et al. 2012, equation 5.
    """
    n = len(gram)
    gram = gram - np.diag(np.diag(gram))
    rows = gram.sum(0) / (n - 2)
    centred = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
    return np.asarray(centred - np.diag(np.diag(centred)))


def _centred_gram(representation: Tensor) -> Matrix:
    """U-centred Gram of a batch of representations, on a scale that keeps float32 honest."""
    flat = representation.flatten(1)
    flat = flat - flat.mean(0)  # changes no U-centred Gram, and keeps digits
    with np.errstate(invalid="ignore"):  # values that are no numbers are refused by the caller
        return u_centred((flat @ flat.T).double().numpy()) / flat.shape[1]


def _pairs_by_grid(
    pairs: Sequence[Pair], facts: Mapping[str, ModelFacts]
) -> dict[Grid, list[Pair]]:
    by_grid: dict[Grid, list[Pair]] = {}
    for pair in pairs:
        grid = facts[pair.recipient.model].stage(pair.recipient.stage).grid
        by_grid.setdefault(grid, []).append(pair)
    return by_grid


def _by_donor(pairs: Sequence[Pair]) -> dict[Ref, list[Pair]]:
    groups: dict[Ref, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.donor, []).append(pair)
    return groups


def _places(grid: Grid, indices: range, settings: PassSettings) -> Tensor:
    """(frames, positions) sampled positions; a frame's depend on its index alone."""
    if grid is None:
        return torch.zeros((len(indices), 1), dtype=torch.long)
    size = grid[0] * grid[1]
    if size <= settings.positions:
        return torch.arange(size).expand(len(indices), size)
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + index)
        rows.append(torch.randperm(size, generator=generator)[: settings.positions])
    return torch.stack(rows)


def _sample(representation: Tensor, places: Tensor) -> Tensor:
    """(frames, channels, h, w) or (frames, channels) -> (frames, positions, channels)."""
    if representation.dim() == 2:
        return representation[:, None, :]
    rows = representation.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.take_along_dim(rows, places[:, :, None], dim=1)


def _accumulate(sums: dict[Key, Matrix], key: Key, value: Tensor) -> None:
    added = value.double().numpy()
    if key in sums:
        sums[key] += added
    else:
        sums[key] = added.copy()
