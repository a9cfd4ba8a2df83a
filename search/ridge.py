"""Ridge regression of many recipients on one donor, in closed form from second moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.second_moments import Pooled
from spaces.plan import Ref


@dataclass(frozen=True)
class Regression:
    """Covariances of one donor with recipients side by side, about known means; in float64."""

    donor_mean: Tensor
    """(donor channels,)"""
    recipient_mean: Tensor
    """(all recipients' channels,)"""
    xx: Tensor
    """(donor channels, donor channels)"""
    xy: Tensor
    """(donor channels, all recipients' channels)"""

    @classmethod
    def of(
        cls,
        donor: Ref,
        recipients: Sequence[Ref],
        moments: Pooled,
        about: tuple[Tensor, Tensor] | None = None,
    ) -> Regression:
        """About the given means of donor and recipients, or those of the moments."""
        x, y = about or (moments.mean(donor), moments.mean(*recipients))
        xx, xy = moments.square(donor, x), moments.product(donor, recipients, (x, y))
        return cls(x, y, xx, xy)

    def weight(self, strength: float) -> Tensor:
        """(donor, recipients) solution W of (S_xx + strength * mean variance * I) W = S_xy."""
        system = self.xx + strength * self._variance * torch.eye(len(self.xx), dtype=torch.float64)
        return torch.cholesky_solve(self.xy, torch.linalg.cholesky(system))

    def predicted(self, weight: Tensor, strength: float) -> Tensor:
        """(recipients,) variances of what `weight(strength)` predicts: those of W^T S_xx W.

        From the equation that W solves, S_xx W is S_xy less the penalty.
        """
        seen = self.xy - strength * self._variance * weight
        return (weight * seen).sum(0)

    def gains(self, held: Regression, widths: Sequence[int], strengths: Sequence[float]) -> Tensor:
        """How much of each recipient's held-out sum of squares each strength's map explains.

        `held` is about the same means; `widths` are the recipients' channels. Returns 2 tr(W^T
        H_xy) - tr(W^T H_xx W) as (strengths, recipients), where W is `weight(strength)`. In the
        eigenvectors of S_xx the maps of all strengths are one matrix with its rows rescaled.
        """
        values, vectors = torch.linalg.eigh(self.xx)
        inverse = torch.stack([self._inverse(values, strength) for strength in strengths])
        seen = vectors.T @ held.xx @ vectors
        turned, tested = vectors.T @ self.xy, vectors.T @ held.xy
        gains = []
        both = zip(
            torch.split(turned, list(widths), 1),
            torch.split(tested, list(widths), 1),
            strict=True,
        )
        for fit, test in both:
            linear = inverse @ (fit * test).sum(1)
            quadratic = ((inverse @ (seen * (fit @ fit.T))) * inverse).sum(1)
            gains.append(2 * linear - quadratic)
        return torch.stack(gains, dim=1)

    @property
    def _variance(self) -> float:
        """The donor's mean variance per channel."""
        return max(float(self.xx.trace()) / len(self.xx), torch.finfo(torch.float64).tiny)

    def _inverse(self, values: Tensor, strength: float) -> Tensor:
        """A donor that does not vary explains nothing."""
        damped = values.clamp(min=0) + strength * self._variance
        return torch.where(values.max() > 0, 1 / damped, torch.zeros_like(values))
