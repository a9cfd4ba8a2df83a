"""Second moments of representations side by side: additive counts, means and scatter matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

from spaces.plan import Ref
from spaces.shares import Pair

SQUARE_BLOCK = 320
"""A wide square matrix is computed in blocks of this height, right of its diagonal only."""
FLOAT64_CHANNELS = 512
"""Squares of at most this many channels are computed in float64, which costs very little.

They may be nearly singular, and then the rounding of float32 would show in R².
"""


@dataclass(frozen=True)
class GridColumns:
    """The representations that are read on one grid, side by side, model by model.

    Each model's row begins with its recipients, the representations of this grid. Its donors of
    other grids, resized to this one, come after them.
    """

    recipients: Mapping[str, tuple[Ref, ...]]
    donors: Mapping[str, tuple[Ref, ...]]
    """Representations that are only donors on this grid."""
    channels: Mapping[Ref, int]
    """Number of channels of each representation."""
    couples: tuple[tuple[str, str], ...]
    """Every two models with a pair between them, once."""

    @classmethod
    def of(cls, pairs: Sequence[Pair], channels: Mapping[Ref, int]) -> GridColumns:
        """Return the columns that the pairs need, in the order of `channels`."""
        recipients = {pair.recipient for pair in pairs}
        donors = {pair.donor for pair in pairs} - recipients
        used = {ref: width for ref, width in channels.items() if ref in recipients | donors}
        models = tuple(dict.fromkeys(ref.model for ref in used))
        paired = {frozenset((pair.donor.model, pair.recipient.model)) for pair in pairs}
        return cls(
            {m: tuple(r for r in used if r.model == m and r in recipients) for m in models},
            {m: tuple(r for r in used if r.model == m and r in donors) for m in models},
            used,
            tuple(two for two in combinations(models, 2) if frozenset(two) in paired),
        )

    @cached_property
    def spans(self) -> Mapping[Ref, slice]:
        """The columns of each representation in its model's row."""
        spans: dict[Ref, slice] = {}
        for model in self.recipients:
            start = 0
            for ref in self.of_model(model):
                spans[ref] = slice(start, start + self.channels[ref])
                start = spans[ref].stop
        return spans

    def of_model(self, model: str) -> tuple[Ref, ...]:
        """Return the representations of a model's row, in order."""
        return self.recipients[model] + self.donors[model]

    def width(self, model: str) -> int:
        """Return the number of columns of a model's row."""
        return sum(self.channels[ref] for ref in self.of_model(model))

    def recipient_width(self, model: str) -> int:
        """Return the number of columns of a model's recipients."""
        return sum(self.channels[ref] for ref in self.recipients[model])

    def recipients_of(self, donor: Ref) -> tuple[Ref, ...]:
        """Return the recipients on the grid that the donor is paired with."""
        partners = {m for two in self.couples if donor.model in two for m in two} - {donor.model}
        return tuple(r for m, refs in self.recipients.items() if m in partners for r in refs)

    def blocks(self) -> Iterator[tuple[str, str, slice, slice]]:
        """Yield two models and the columns of each whose products are stored.

        For each couple, first the recipients of the first model with all columns of the second,
        then the recipients of the second with the first's donors of other grids. So every legal
        pair, in either direction, is stored once.
        """
        for one, other in self.couples:
            cut = self.recipient_width(one)
            yield one, other, slice(0, cut), slice(0, self.width(other))
            yield (
                other, one, slice(0, self.recipient_width(other)), slice(cut, self.width(one))
            )  # fmt: skip


@dataclass
class SecondMoments:
    """Count, means, and sums of products of deviations from the means, of one grid and fold.

    Rows are sampled positions. Sums of products of deviations, unlike sums of products, lose no
    digits where the means are far above the deviations.

    Source: Chan, Golub and LeVeque 1983, for adding two of them.
    """

    columns: GridColumns
    count: int = 0
    means: dict[str, Tensor] = field(default_factory=dict)
    """(width,) of each model's row."""
    squares: dict[Ref, Tensor] = field(default_factory=dict)
    """(channels, channels) of each representation."""
    products: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """The block of `GridColumns.blocks` of two models."""

    def mean(self, ref: Ref) -> Tensor:
        """Return the mean of a representation, (channels,)."""
        return self.means[ref.model][self.columns.spans[ref]]

    def product(self, pair: Pair) -> Tensor:
        """Return the sums of products of a pair, (donor channels, recipient channels)."""
        donor, recipient = pair.donor, pair.recipient
        ahead = (donor.model, recipient.model) in self.columns.couples
        if ahead and donor in self.columns.recipients[donor.model]:
            return self._block(donor, recipient)
        return self._block(recipient, donor).T

    @torch.inference_mode()
    def add(self, rows: Mapping[Ref, Tensor]) -> None:
        """Add rows, (n, channels) of each representation, sampled at the same positions.

        Products are computed of the deviations from the rows' mean, at the rows' own precision,
        and added in float64; squares of narrow representations are computed in float64, too.
        """
        count = len(next(iter(rows.values())))
        deviations, means = self._deviations(rows, count)
        steps, weight = self._steps(count, means)
        for model, step in steps.items():  # one more row moves both sums to the common mean
            deviations[model][count] = step * weight**0.5
        for ref, span in self.columns.spans.items():
            spread = deviations[ref.model][:, span]
            exact = spread.double() if spread.shape[1] <= FLOAT64_CHANNELS else spread
            _add_square(self._square(ref, spread.device), exact)
        for one, other, left, right in self.columns.blocks():
            self._product(one, other, deviations[one][:, left].T @ deviations[other][:, right])
        self._move(count, means)

    @torch.inference_mode()
    def merge(self, other: SecondMoments) -> None:
        """Add the moments of other rows with the same columns."""
        if not other.count:
            return
        steps, weight = self._steps(other.count, other.means)
        for ref, square in other.squares.items():
            step = steps[ref.model][self.columns.spans[ref]]
            total = self._square(ref, square.device)
            total += square
            total.addr_(step, step, alpha=weight)
        for one, two, left, right in self.columns.blocks():
            self._product(one, two, other.products[one, two])
            self.products[one, two].addr_(steps[one][left], steps[two][right], alpha=weight)
        self._move(other.count, other.means)

    def cpu(self) -> SecondMoments:
        """Return the same moments on the CPU."""
        return SecondMoments(
            self.columns,
            self.count,
            {model: mean.cpu() for model, mean in self.means.items()},
            {ref: square.cpu() for ref, square in self.squares.items()},
            {models: block.cpu() for models, block in self.products.items()},
        )

    def _block(self, row: Ref, column: Ref) -> Tensor:
        """Return the part of two stages in the block of their models; `row` is a recipient."""
        block = self.products[row.model, column.model]
        first = (row.model, column.model) in self.columns.couples
        start = 0 if first else self.columns.recipient_width(column.model)
        across = self.columns.spans[column]
        return block[self.columns.spans[row], across.start - start : across.stop - start]

    def _deviations(
        self, rows: Mapping[Ref, Tensor], count: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return, by model, the rows' deviations from their mean, and the mean.

        The deviations have room for one more row.
        """
        deviations, means = {}, {}
        like = next(iter(rows.values()))
        for model in self.columns.recipients:
            width = self.columns.width(model)
            deviations[model] = like.new_empty((count + 1, width))
            means[model] = like.new_empty(width, dtype=torch.float64)
        for ref, span in self.columns.spans.items():
            about = rows[ref].mean(0)
            spread = deviations[ref.model][:count, span]
            torch.sub(rows[ref], about, out=spread)
            means[ref.model][span] = about.double() + spread.mean(0).double()
        return deviations, means

    def _steps(self, count: int, means: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """Return steps from the means so far to new means, and the weight of their products."""
        if not self.count:
            return {model: torch.zeros_like(mean) for model, mean in means.items()}, 0.0
        weight = self.count * count / (self.count + count)
        return {model: mean - self.means[model] for model, mean in means.items()}, weight

    def _move(self, count: int, means: Mapping[str, Tensor]) -> None:
        """Count the rows, and move the means to those of all rows."""
        self.count += count
        for model, mean in means.items():
            before = self.means.get(model, mean)
            self.means[model] = before + (mean - before) * (count / self.count)

    def _square(self, ref: Ref, device: torch.device) -> Tensor:
        if ref not in self.squares:
            width = self.columns.channels[ref]
            self.squares[ref] = torch.zeros((width, width), dtype=torch.float64, device=device)
        return self.squares[ref]

    def _product(self, one: str, other: str, block: Tensor) -> None:
        if (one, other) in self.products:
            self.products[one, other] += block
        else:
            self.products[one, other] = block.to(torch.float64, copy=True)


class PooledMoments:
    """The moments of several folds as one: means, and covariances about any means."""

    def __init__(self, parts: Sequence[SecondMoments]) -> None:
        self.columns = parts[0].columns
        self.count = sum(part.count for part in parts)
        self._parts = [(part, part.count, self.count) for part in parts]

    def mean(self, *refs: Ref) -> Tensor:
        """Return the mean of the representations side by side, (all their channels,)."""
        total = torch.zeros(sum(self.columns.channels[ref] for ref in refs), dtype=torch.float64)
        for part, own, count in self._parts:
            total += torch.cat([part.mean(ref) for ref in refs]) * (own / count)
        return total

    def variances(self, ref: Ref, about: Tensor | None = None) -> Tensor:
        """Return mean squared deviations (channels,) from `about`, by default from the mean."""
        about = self.mean(ref) if about is None else about
        total = torch.zeros_like(about)
        for part, own, count in self._parts:
            total += (part.squares[ref].diagonal() + own * (part.mean(ref) - about) ** 2) / count
        return total

    def variance(self, ref: Ref, about: Tensor | None = None) -> float:
        """Return the sum of `variances` over channels."""
        return float(self.variances(ref, about).sum())

    def square(self, ref: Ref, about: Tensor | None = None) -> Tensor:
        """Return mean products of a representation's deviations, (channels, channels)."""
        about = self.mean(ref) if about is None else about
        total = torch.zeros((len(about), len(about)), dtype=torch.float64)
        for part, own, count in self._parts:
            step = part.mean(ref) - about
            total.add_(part.squares[ref], alpha=1 / count).addr_(step, step, alpha=own / count)
        return total

    def product(
        self, donor: Ref, recipients: Sequence[Ref], about: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return mean products of deviations, (donor channels, all recipients' channels)."""
        x, y = about or (self.mean(donor), self.mean(*recipients))
        total = torch.zeros((len(x), len(y)), dtype=torch.float64)
        for part, own, count in self._parts:
            widths = [self.columns.channels[ref] for ref in recipients]
            for ref, block in zip(recipients, torch.split(total, widths, 1), strict=True):
                block.add_(part.product(Pair(donor, ref)), alpha=1 / count)
            dx, dy = part.mean(donor) - x, torch.cat([part.mean(r) for r in recipients]) - y
            total.addr_(dx, dy, alpha=own / count)
        return total


def _add_square(total: Tensor, rows: Tensor) -> None:
    """Add rows^T rows to total, computing only blocks on and right of the diagonal."""
    for start in range(0, rows.shape[1], SQUARE_BLOCK):
        stop = min(start + SQUARE_BLOCK, rows.shape[1])
        part = rows[:, start:stop].T @ rows[:, start:]
        total[start:stop, start:] += part
        total[stop:, start:stop] += part[:, stop - start :].T
