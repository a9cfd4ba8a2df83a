"""Second moments of representations, computed from their rows when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from search.statistics.rows import FoldName, GridRows
from spaces.plan import Ref

FLOAT64_CHANNELS = 512
"""Products of representations of at most this many channels are computed in float64.

They may be nearly singular, and then the rounding of float32 would show in R².
"""


class SecondMoments:
    """Means, and mean products of deviations, over the rows of some folds of one grid.

    A row counts as often as its block says.
    """

    def __init__(self, grid_rows: GridRows, folds: Sequence[FoldName]) -> None:
        self.rows = grid_rows
        self._spans = list(grid_rows.spans(*folds))
        self.count = sum(span.count for span in self._spans)
        """Number of rows, weights aside."""
        self.weight = sum(span.count * span.weight for span in self._spans)
        """Number of positions that the rows stand for."""
        self._means: dict[Ref, Tensor] = {}

    def mean(self, ref: Ref) -> Tensor:
        """Return the mean of a representation, (channels,), float64."""
        if ref not in self._means:
            coded = self.rows.coded[ref]
            total = torch.zeros(coded.channels, dtype=torch.float64)
            for span in self._spans:
                codes = coded.codes[span.rows].sum(0, dtype=torch.int64)
                values = coded.centres[span.block].double() * span.count
                total += (values + coded.scales[span.block].double() * codes) * span.weight
            self._means[ref] = total / self.weight
        return self._means[ref]

    def deviations(self, ref: Ref, about: Tensor | None = None) -> Tensor:
        """Return the rows' deviations from `about`, by default their mean: (rows, channels).

        Each row is multiplied by the root of its part of all weight. So sums of products of two
        results are means of products. The result is float32.
        """
        about = self.mean(ref) if about is None else about
        coded = self.rows.coded[ref]
        deviations = torch.empty((self.count, coded.channels))
        start = 0
        for span in self._spans:
            part = (span.weight / self.weight) ** 0.5
            values = deviations[start : start + span.count]
            torch.mul(coded.codes[span.rows], coded.scales[span.block] * part, out=values)
            values += ((coded.centres[span.block].double() - about) * part).float()
            start += span.count
        return deviations

    def variance(self, ref: Ref, about: Tensor | None = None) -> float:
        """Return the mean squared deviation from `about`, summed over channels."""
        return float(squares(self.deviations(ref, about)).sum())

    def product(self, donor: Ref, recipient: Ref) -> Tensor:
        """Return mean products of deviations, (donor channels, recipient channels), float64."""
        return inner(self.deviations(donor), self.deviations(recipient))


def squares(rows: Tensor) -> Tensor:
    """Return the sum of squares of each column, (columns,), float64."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=0, dtype=torch.float64)
    return norms.square()


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Return left^T right in float64; computed in float32 where one of the two is wide."""
    if max(left.shape[1], right.shape[1]) <= FLOAT64_CHANNELS:
        return left.double().T @ right.double()
    return (left.T.float() @ right.float()).double()
