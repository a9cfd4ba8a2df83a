"""From moments to similarities and closed-form linear maps; no frame is touched here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from search.moments import Matrix, Moments, SecondMoments
from spaces.adapters import LinearMap
from spaces.errors import MergeSearchError
from spaces.facts import ModelFacts
from spaces.plan import Ref, Share
from spaces.shares import Pair
from spaces.stages import Grid

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths tried, relative to the donor's mean variance per channel."""


class DegenerateRepresentation(MergeSearchError):
    """A representation that does not vary over the frames seen."""


@dataclass(frozen=True)
class Covariances:
    """Centred second moments of one pair in one fold, all about the same means."""

    donor_mean: Matrix
    recipient_mean: Matrix
    xx: Matrix
    """(donor, donor)"""
    xy: Matrix
    """(donor, recipient)"""
    yy: Matrix
    """(recipient, recipient)"""


@dataclass(frozen=True)
class Ridge:
    """The ridge map of a pair: chosen strength, and how well it explains held-out frames."""

    strength: float
    explained: float
    """Held-out share of the recipient's variance; 1 is perfect, 0 no better than the mean."""


class Statistics:
    """Moments seen pair by pair; what several pairs share is worked out once."""

    def __init__(self, moments: Moments, facts: Mapping[str, ModelFacts]) -> None:
        self.moments = moments
        self.facts = facts
        self._positions = {ref: k for k, ref in enumerate(moments.refs)}
        self._ridges: dict[Pair, Ridge] = {}
        self._check_varying()

    def covariances(self, pair: Pair, *folds: str) -> Covariances:
        """Moments of the pair over the named folds (all of them if none is named)."""
        return _covariances(self._pooled(self._grid(pair), pair, folds or ("fit", "held")))

    def image_cka(self, pair: Pair) -> float:
        """Unbiased linear CKA with images as samples (the seed paper's S)."""
        i, j = self._positions[pair.donor], self._positions[pair.recipient]
        hsic = self.moments.hsic
        return float(hsic[i, j] / np.sqrt(hsic[i, i] * hsic[j, j]))

    def ridge(self, pair: Pair) -> Ridge:
        """The best of the ridge maps on held-out frames."""
        if pair not in self._ridges:
            self._solve(pair.donor, self._grid(pair))
        return self._ridges[pair]

    def position_cka(self, pair: Pair) -> float:
        """Linear CKA with positions as samples: ||S_xy||^2 / (||S_xx|| ||S_yy||)."""
        cov = self.covariances(pair)
        cross = float((cov.xy**2).sum())
        return cross / float(np.linalg.norm(cov.xx) * np.linalg.norm(cov.yy))

    def explained(self, share: Share) -> float:
        """Held-out share of the recipient's variance that the donor explains through the adapter.

        1 is perfect, 0 no better than the mean; negative where it does worse.

        Source: Kornblith et al. 2019, section 3 (linear regression).
        """
        pair = Pair(share.donor, share.recipient)
        if share.adapter.kind == "linear" and not share.adapter.rank:
            return self.ridge(pair).explained
        fit, held = self.covariances(pair, "fit"), self.moments.at(self._grid(pair), "held")
        if share.adapter.kind == "identity":
            weight, about = np.eye(len(fit.xx)), (fit.donor_mean, fit.donor_mean)
        else:
            up, down = self.linear_map(pair).low_rank(share.adapter.rank)
            weight = (up @ down).double().numpy().T
            about = (fit.donor_mean, fit.recipient_mean)
        cov = _covariances(_Sums.of(pair, [held]), about)
        return _explained(weight, cov.xx @ weight, cov, _held_variance(held, pair))

    def linear_map(self, pair: Pair) -> LinearMap:
        """The ridge map at the chosen strength, fitted on all frames of both folds."""
        moments = self.covariances(pair)
        weight = _ridge_weight(moments.xx, moments.xy, self.ridge(pair).strength)
        bias = moments.recipient_mean - moments.donor_mean @ weight
        return LinearMap(torch.from_numpy(weight.T.copy()).float(), torch.from_numpy(bias).float())

    def _grid(self, pair: Pair) -> Grid:
        return self.facts[pair.recipient.model].stage(pair.recipient.stage).grid

    def _pooled(self, grid: Grid, pair: Pair, folds: Sequence[str]) -> _Sums:
        return _Sums.of(pair, [self.moments.at(grid, fold) for fold in folds])

    def _solve(self, donor: Ref, grid: Grid) -> None:
        """All recipients of one donor on one grid share the factorisations of its moments."""
        fit, held = self.moments.at(grid, "fit"), self.moments.at(grid, "held")
        pairs = [pair for pair in fit.products if pair.donor == donor]
        fitted = [_covariances(_Sums.of(pair, [fit])) for pair in pairs]
        tested = [
            _covariances(_Sums.of(pair, [held]), about=(cov.donor_mean, cov.recipient_mean))
            for pair, cov in zip(pairs, fitted, strict=True)
        ]
        stacked = np.concatenate([cov.xy for cov in fitted], axis=1)
        cuts = np.cumsum([cov.xy.shape[1] for cov in fitted])[:-1]
        for strength in LAMBDAS:
            weights = _ridge_weight(fitted[0].xx, stacked, strength)
            spread = np.split(tested[0].xx @ weights, cuts, axis=1)
            for pair, weight, seen, cov in zip(
                pairs, np.split(weights, cuts, axis=1), spread, tested, strict=True
            ):
                explained = _explained(weight, seen, cov, _held_variance(held, pair))
                best = self._ridges.get(pair)
                if best is None or explained > best.explained:
                    self._ridges[pair] = Ridge(strength, explained)

    def _check_varying(self) -> None:
        hsic = np.diag(self.moments.hsic)
        for ref, own in zip(self.moments.refs, hsic, strict=True):
            if not own > 0:
                raise DegenerateRepresentation(
                    f"{ref} does not vary over the frames seen; are they all the same picture?"
                )


@dataclass(frozen=True)
class _Sums:
    """Raw sums of one pair over some folds."""

    count: int
    x: Matrix
    y: Matrix
    xx: Matrix
    xy: Matrix
    yy: Matrix

    @classmethod
    def of(cls, pair: Pair, parts: Sequence[SecondMoments]) -> _Sums:
        def add(arrays: list[Matrix]) -> Matrix:
            return arrays[0] if len(arrays) == 1 else np.sum(arrays, axis=0)

        return cls(
            sum(part.count for part in parts),
            add([part.sums[pair.donor] for part in parts]),
            add([part.sums[pair.recipient] for part in parts]),
            add([part.squares[pair.donor] for part in parts]),
            add([part.products[pair] for part in parts]),
            add([part.squares[pair.recipient] for part in parts]),
        )


def _covariances(sums: _Sums, about: tuple[Matrix, Matrix] | None = None) -> Covariances:
    """Mean products of deviations from `about`, or from the sums' own means."""
    x, y = sums.x / sums.count, sums.y / sums.count
    x0, y0 = about or (x, y)

    def centred(product: Matrix, a: Matrix, a0: Matrix, b: Matrix, b0: Matrix) -> Matrix:
        return product / sums.count - np.outer(a, b0) - np.outer(a0, b) + np.outer(a0, b0)

    return Covariances(
        x0,
        y0,
        centred(sums.xx, x, x0, x, x0),
        centred(sums.xy, x, x0, y, y0),
        centred(sums.yy, y, y0, y, y0),
    )


def _ridge_weight(xx: Matrix, xy: Matrix, strength: float) -> Matrix:
    """(donor, recipient) solution of (S_xx + strength * mean variance * I) W = S_xy."""
    variance = max(float(np.trace(xx)) / len(xx), np.finfo(float).tiny)
    system = torch.from_numpy(xx + strength * variance * np.eye(len(xx)))
    solution = torch.cholesky_solve(torch.from_numpy(xy), torch.linalg.cholesky(system))
    return np.asarray(solution.numpy())


def _explained(weight: Matrix, spread: Matrix, cov: Covariances, variance: float) -> float:
    """1 - residual / variance, from held-out moments; `spread` is S_xx @ weight."""
    residual = np.trace(cov.yy) - 2 * np.sum(weight * cov.xy) + np.sum(weight * spread)
    return float(1.0 - residual / variance)


def _held_variance(held: SecondMoments, pair: Pair) -> float:
    mean = held.sums[pair.recipient] / held.count
    squares = np.trace(held.squares[pair.recipient]) / held.count
    variance = float(squares - mean @ mean)
    if not variance > 0:
        raise DegenerateRepresentation(f"{pair.recipient} does not vary over the held-out frames")
    return variance
