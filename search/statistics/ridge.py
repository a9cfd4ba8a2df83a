"""Ridge regression of many recipients on one donor, in closed form from second moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from search.statistics.second_moments import PooledMoments
from spaces.plan import Ref

FLOAT32_CHANNELS, FLOAT32_VARIANCE = 512, 1e-3
"""Strengths are compared in float32, in half the time, for donors with more channels of which none
varies less than this part of their mean variance; R² stays the same to 1e-6."""


@dataclass(frozen=True)
class RidgeRegression:
    """Covariances of one donor with all recipients side by side, about fixed means; in float64.

    If there are fewer rows than donor channels, the covariances are given in a basis of the span
    of the rows: no other direction contributes to a solution.
    """

    donor_mean: Tensor
    """(donor channels,)"""
    recipient_mean: Tensor
    """(all recipients' channels,)"""
    variance: float
    """The donor's mean variance per channel; strengths are relative to it."""
    basis: Tensor | None
    """(donor channels, dimensions), orthonormal; None stands for the channels themselves."""
    xx: Tensor
    """(dimensions, dimensions)"""
    xy: Tensor
    """(dimensions, all recipients' channels)"""

    @classmethod
    def of(cls, donor: Ref, recipients: Sequence[Ref], moments: PooledMoments) -> RidgeRegression:
        """Return the regression about the moments' own means."""
        x, y = moments.mean(donor), moments.mean(*recipients)
        xx, xy = moments.square(donor, x), moments.product(donor, recipients, (x, y))
        variance = max(float(xx.trace()) / len(xx), torch.finfo(torch.float64).tiny)
        basis = _span(xx, moments.count) if moments.count < len(xx) else None
        return cls(x, y, variance, basis, _inside(basis, xx), _in_rows(basis, xy))

    def on(self, donor: Ref, recipients: Sequence[Ref], moments: PooledMoments) -> RidgeRegression:
        """Return the regression of other moments, about these means and in this basis."""
        about = (self.donor_mean, self.recipient_mean)
        xx, xy = moments.square(donor, about[0]), moments.product(donor, recipients, about)
        return replace(self, xx=_inside(self.basis, xx), xy=_in_rows(self.basis, xy))

    def solution(self, strength: float) -> RidgeSolution:
        """Return the W that solves (S_xx + strength * variance * I) W = S_xy."""
        penalty = strength * self.variance
        system = self.xx + penalty * torch.eye(len(self.xx), dtype=torch.float64)
        inside = torch.cholesky_solve(self.xy, torch.linalg.cholesky(system))
        # From the equation that W solves, S_xx W is S_xy less the penalty.
        xx_inside = self.xy - penalty * inside
        weight = inside if self.basis is None else self.basis @ inside
        return RidgeSolution(weight, inside, xx_inside)

    def gains(
        self, held_out: RidgeRegression, widths: Sequence[int], strengths: Sequence[float]
    ) -> Tensor:
        """Return how much of each recipient's held-out squares each strength's map explains.

        `held_out` is this regression on the held-out moments; `widths` are the recipients'
        channels. The result is 2 tr(W^T H_xy) - tr(W^T H_xx W), (strengths, recipients), where W
        is the solution. In the eigenvectors of S_xx the solutions of all strengths are one matrix
        with rescaled rows.
        """
        values, vectors = torch.linalg.eigh(self.xx)
        inverse = torch.stack([self._inverse(values, strength) for strength in strengths])
        steady = (
            len(values) > FLOAT32_CHANNELS
            and float(values.min()) > FLOAT32_VARIANCE * self.variance
        )
        kind = torch.float32 if steady else torch.float64
        inverse, vectors = inverse.to(kind), vectors.to(kind)
        test_xx = vectors.T @ held_out.xx.to(kind) @ vectors
        fit_xy, test_xy = vectors.T @ self.xy.to(kind), vectors.T @ held_out.xy.to(kind)
        gains = []
        both = zip(
            torch.split(fit_xy, list(widths), 1),
            torch.split(test_xy, list(widths), 1),
            strict=True,
        )
        for fit, test in both:
            linear = inverse @ (fit * test).sum(1)
            quadratic = ((inverse @ (test_xx * (fit @ fit.T))) * inverse).sum(1)
            gains.append(2 * linear - quadratic)
        return torch.stack(gains, dim=1).double()

    def _inverse(self, values: Tensor, strength: float) -> Tensor:
        """Return 1 / (eigenvalue + penalty); 0 for a donor that does not vary."""
        damped = values.clamp(min=0) + strength * self.variance
        return torch.where(values.max() > 0, 1 / damped, torch.zeros_like(values))


@dataclass(frozen=True)
class RidgeSolution:
    """A ridge map W, in the donor's channels and in the regression's basis."""

    weight: Tensor
    """(donor channels, recipients' channels)"""
    inside: Tensor
    """(dimensions, recipients' channels)"""
    xx_inside: Tensor
    """S_xx W, (dimensions, recipients' channels)"""

    @property
    def predicted(self) -> Tensor:
        """(recipients' channels,): variances of the predictions, the diagonal of W^T S_xx W."""
        return (self.inside * self.xx_inside).sum(0)

    def split(self, widths: Sequence[int]) -> list[RidgeSolution]:
        """Return the map to each recipient, of the given numbers of channels."""
        matrices = (self.weight, self.inside, self.xx_inside)
        parts = zip(*(torch.split(matrix, list(widths), 1) for matrix in matrices), strict=True)
        return [RidgeSolution(*part) for part in parts]

    def at_rank(self, rank: int) -> RidgeSolution:
        """Return the map of that rank whose predictions are nearest to this map's.

        Source: reduced-rank regression, Izenman 1975: a projection onto the first principal
        components of the predictions.
        """
        covariance = self.inside.T @ self.xx_inside
        components = torch.linalg.eigh((covariance + covariance.T) / 2).eigenvectors[:, -rank:]
        onto = components @ components.T
        return RidgeSolution(self.weight @ onto, self.inside @ onto, self.xx_inside @ onto)


def _span(square: Tensor, rank: int) -> Tensor:
    """Return an orthonormal basis, (channels, rank), of the range of a covariance.

    The rank of the covariance is at most `rank`.

    Source: Halko, Martinsson and Tropp 2011, algorithm 4.1.
    """
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn((len(square), rank), generator=generator, dtype=square.dtype)
    basis: Tensor = torch.linalg.qr(square @ probes).Q
    return basis


def _inside(basis: Tensor | None, square: Tensor) -> Tensor:
    return square if basis is None else basis.T @ square @ basis


def _in_rows(basis: Tensor | None, product: Tensor) -> Tensor:
    return product if basis is None else basis.T @ product
