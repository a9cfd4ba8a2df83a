"""Ridge regression of representations on one donor, in closed form from their rows.

Every matrix is of the smaller side: of channels, or of rows where there are fewer of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.statistics.second_moments import SecondMoments, inner
from spaces.plan import Ref

NEGLIGIBLE_COMPONENT = 1e-13
"""Directions with at most this part of the largest variance are rounding, and are left out."""


@dataclass(frozen=True)
class DonorComponents:
    """A donor's principal components; ridge maps of all strengths are read off them.

    In their coordinates the maps of all strengths are one matrix with rescaled rows.
    """

    mean: Tensor
    """(channels,) of the fit fold; deviations are from here in either fold."""
    inverse: Tensor
    """(strengths, components): 1 / (variance + penalty)"""
    fit: Tensor
    """(rows, components): coordinates of the fit fold's rows"""
    held_out: Tensor
    """(rows, components): coordinates of the rows held out"""
    held_out_square: Tensor
    """(components, components): products of these"""

    @classmethod
    def of(
        cls, donor: Ref, fit: SecondMoments, held_out: SecondMoments, strengths: Sequence[float]
    ) -> DonorComponents:
        """Return the components of the fit fold. Strengths are relative to the mean variance."""
        mean = fit.mean(donor)
        rows = fit.deviations(donor).double()
        values, vectors = _components(rows)
        penalties = torch.tensor(strengths, dtype=torch.float64) * mean_variance(rows)
        inverse = 1 / (values + penalties[:, None])
        test = held_out.deviations(donor, mean).double() @ vectors
        return cls(mean, inverse, (rows @ vectors).float(), test.float(), test.T @ test)

    def gains(self, recipient: Tensor, recipient_held_out: Tensor) -> Tensor:
        """Return how much of the held-out squares each strength's map explains, (strengths,).

        The arguments are the recipient's deviations, in the two folds, from its mean in the fit
        fold. The result is 2 tr(W^T H_xy) - tr(W^T H_xx W), where W is the map, and H the
        held-out products.
        """
        fit, test = inner(self.fit, recipient), inner(self.held_out, recipient_held_out)
        linear = self.inverse @ (fit * test).sum(1)
        weighted = self.inverse @ (self.held_out_square * (fit @ fit.T))
        return 2 * linear - (weighted * self.inverse).sum(1)


@dataclass(frozen=True)
class RidgeRegression:
    """The regression of any recipients on one donor, over the rows of any folds."""

    rows: Tensor
    """(rows, channels): the donor's deviations, float32"""
    square: Tensor
    """(channels, channels) products, or (rows, rows) if there are fewer rows; float64"""

    @classmethod
    def of(cls, donor: Ref, moments: SecondMoments) -> RidgeRegression:
        """Return the regression about the moments' own means."""
        rows = moments.deviations(donor)
        exact = rows.double()
        return cls(rows, exact @ exact.T if _few(exact) else exact.T @ exact)

    def solver(self, strength: float) -> RidgeSolver:
        """Return the solver of (S_xx + strength * mean variance * I) W = S_xy."""
        penalty = strength * max(float(self.square.trace()) / self.rows.shape[1], _TINY)
        system = self.square + penalty * torch.eye(len(self.square), dtype=torch.float64)
        return RidgeSolver(self.rows, penalty, torch.linalg.cholesky(system))


@dataclass(frozen=True)
class RidgeSolver:
    """A regression of one strength."""

    rows: Tensor
    penalty: float
    factor: Tensor
    """Cholesky factor of the square plus the penalty"""

    def solution(self, recipient: Tensor) -> RidgeSolution:
        """Return the map to a recipient of these deviations, (rows, channels)."""
        if _few(self.rows):
            # W = X^T A with (X X^T + penalty) A = Y, and so X W is Y less the penalty times A.
            inside = torch.cholesky_solve(recipient.double(), self.factor)
            predicted = recipient - self.penalty * inside
            return RidgeSolution(self.rows.double().T @ inside, predicted, predicted)
        xy = inner(self.rows, recipient)
        weight = torch.cholesky_solve(xy, self.factor)
        # From the equation that W solves, S_xx W is S_xy less the penalty.
        return RidgeSolution(weight, weight, xy - self.penalty * weight)


@dataclass(frozen=True)
class RidgeSolution:
    """A ridge map W and two matrices whose product, left^T right, is W^T S_xx W."""

    weight: Tensor
    """(donor channels, recipient channels)"""
    left: Tensor
    """(any, recipient channels)"""
    right: Tensor
    """(any, recipient channels), `left` itself if both are the predictions of few rows"""

    @property
    def predicted(self) -> Tensor:
        """(recipient channels,): variances of the predictions, the diagonal of W^T S_xx W."""
        return (self.left * self.right).sum(0)

    def at_rank(self, rank: int) -> RidgeSolution:
        """Return the map of that rank whose predictions are nearest to this map's.

        Source: reduced-rank regression, Izenman 1975: a projection onto the first principal
        components of the predictions.
        """
        if self.left is self.right:
            _, directions = _components(self.left)
        else:
            covariance = self.left.T @ self.right
            directions = torch.linalg.eigh((covariance + covariance.T) / 2).eigenvectors
        components = directions[:, -rank:]
        onto = components @ components.T
        return RidgeSolution(self.weight @ onto, self.left @ onto, self.right @ onto)


_TINY = torch.finfo(torch.float64).tiny


def mean_variance(rows: Tensor) -> float:
    """Return the mean variance per channel, above 0, of weighted deviations (rows, channels)."""
    return max(float(rows.square().sum()) / rows.shape[1], _TINY)


def _few(rows: Tensor) -> bool:
    """Return whether there are fewer rows than channels."""
    return rows.shape[0] < rows.shape[1]


def _components(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances (components,) and the directions (channels, components) of rows.

    There are none if the rows do not vary.
    """
    few = _few(rows)
    values, vectors = torch.linalg.eigh(rows @ rows.T if few else rows.T @ rows)
    kept = values > NEGLIGIBLE_COMPONENT * values.max()
    values, vectors = values[kept], vectors[:, kept]
    return values, rows.T @ vectors / values.sqrt() if few else vectors
