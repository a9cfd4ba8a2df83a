"""Similarities and closed-form linear maps from moments; no frame is read here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from search.statistics.ridge import RidgeRegression, RidgeSolution
from search.statistics.second_moments import PooledMoments
from search.statistics.streaming import FOLDS, FoldName, Moments
from search.utils.arrays import FloatMatrix
from spaces.adapters import LinearMap
from spaces.errors import MergeSearchError
from spaces.model_facts import ModelFacts
from spaces.plan import LINEAR, Ref, Share
from spaces.shares import Pair
from spaces.stages import Grid

DonorTask = TypeVar("DonorTask", bound=tuple[Any, ...])
InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")
RIDGE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths that are compared, relative to the donor's mean variance per channel."""

NEGLIGIBLE_VARIANCE = 1e-6
"""A prediction with less than this part of the recipient's variance is rounding."""


class DegenerateRepresentation(MergeSearchError):
    """A representation does not vary over the frames."""


@dataclass(frozen=True)
class Covariances:
    """Centred second moments of one pair in one fold, all about the same means."""

    donor_mean: FloatMatrix
    recipient_mean: FloatMatrix
    xx: FloatMatrix
    """(donor, donor)"""
    xy: FloatMatrix
    """(donor, recipient)"""
    yy: FloatMatrix
    """(recipient, recipient)"""


@dataclass(frozen=True)
class RidgeFit:
    """The ridge map of a pair: chosen strength, and how well it explains held-out frames."""

    strength: float
    explained: float
    """Held-out share of the recipient's variance; 1 is perfect, 0 no better than the mean."""


@dataclass(frozen=True)
class Residual:
    """Residual of a share on held-out frames; both matrices are (recipient, recipient)."""

    error: FloatMatrix
    """Mean products of the differences between recipient and adapted donor."""
    spread: FloatMatrix
    """Covariance of the recipient."""


class Statistics:
    """Similarities and maps of pairs; computations that several pairs share are done once."""

    def __init__(self, moments: Moments, facts: Mapping[str, ModelFacts]) -> None:
        self.moments = moments
        self.facts = facts
        self._positions = {ref: k for k, ref in enumerate(moments.refs)}
        self._ridges: dict[Pair, RidgeFit] = {}
        self._norms: dict[tuple[Grid, Ref], float] = {}
        self._check_varying()

    def covariances(self, pair: Pair, *folds: FoldName) -> Covariances:
        """Return the covariances of the pair over the given folds, by default over all."""
        return _covariances(pair, self._pooled(self._grid(pair), *folds))

    def image_cka(self, pair: Pair) -> float:
        """Return the unbiased linear CKA with images as samples; 1 is best.

        Source: Nguyen et al. 2021; this is the similarity S of Cao et al. 2024.
        """
        i, j = self._positions[pair.donor], self._positions[pair.recipient]
        hsic = self.moments.hsic
        return float(hsic[i, j] / np.sqrt(hsic[i, i] * hsic[j, j]))

    def ridge(self, pair: Pair) -> RidgeFit:
        """Return the ridge map that is best on held-out frames."""
        if pair not in self._ridges:
            self.solve([pair])
        return self._ridges[pair]

    def solve(self, pairs: Iterable[Pair]) -> None:
        """Compute `ridge` of many pairs, the donors in parallel."""
        unsolved = [pair for pair in pairs if pair not in self._ridges]
        tasks = dict.fromkeys((pair.donor, self._grid(pair)) for pair in unsolved)
        solved = map_in_threads(lambda task: self._solve_donor(*task), self._widest_first(tasks))
        for ridges in solved:
            self._ridges |= ridges

    def position_cka(self, pair: Pair) -> float:
        """Return the linear CKA with positions as samples: ||S_xy||^2 / (||S_xx|| ||S_yy||).

        Source: Kornblith et al. 2019.
        """
        grid = self._grid(pair)
        cross = float(self._pooled(grid).product(pair.donor, [pair.recipient]).norm()) ** 2
        return cross / (self._norm(grid, pair.donor) * self._norm(grid, pair.recipient))

    def explained(self, share: Share) -> float:
        """Return the held-out share of the recipient's variance that the adapted donor explains.

        1 is perfect, 0 is no better than the mean, and a worse map gives a negative value.

        Source: Kornblith et al. 2019, section 3 (linear regression).
        """
        if share.adapter == LINEAR:
            return self.ridge(Pair(share.donor, share.recipient)).explained
        residual = self.residual(share)
        return 1.0 - float(np.trace(residual.error) / np.trace(residual.spread))

    def residual(self, share: Share) -> Residual:
        """Return the residual, on the held-out fold, of the adapter fitted on the other fold."""
        pair = Pair(share.donor, share.recipient)
        fit, held_out = self.covariances(pair, "fit"), self._pooled(self._grid(pair), "held")
        weight = self._weight(share)
        has_bias = share.adapter.kind == "linear"
        about = (fit.donor_mean, fit.recipient_mean if has_bias else fit.donor_mean)
        cov = _covariances(pair, held_out, about)
        crossed = weight.T @ cov.xy
        error = cov.yy - crossed - crossed.T + weight.T @ (cov.xx @ weight)
        _variance(held_out, pair.recipient)
        return Residual(error, np.asarray(held_out.square(pair.recipient).numpy()))

    def linear_map(self, share: Share) -> LinearMap:
        """Return the share's map, fitted on both folds: ridge at the best strength, of its rank.

        The predictions of a regression vary less than its target, but the recipient's layers were
        trained on the full variance. So each channel is stretched about its mean to the
        recipient's variance. This costs nothing, and merged models keep far more accuracy with it:
        docs/explanation/adapters.md.
        """
        return self.linear_maps([share])[share]

    def linear_maps(self, shares: Iterable[Share]) -> dict[Share, LinearMap]:
        """Return `linear_map` of many shares; those of one donor, grid and strength together."""
        pairs = {share: Pair(share.donor, share.recipient) for share in shares}
        self.solve(pairs.values())
        tasks: dict[tuple[Ref, Grid, float], list[Share]] = defaultdict(list)
        for share, pair in pairs.items():
            tasks[pair.donor, self._grid(pair), self.ridge(pair).strength].append(share)
        fitted = map_in_threads(
            lambda task: _fit_maps(task[0], tasks[task], self._pooled(task[1]), task[2]),
            self._widest_first(tasks),
        )
        map_by_share = {share: linear for maps in fitted for share, linear in maps.items()}
        return {share: map_by_share[share] for share in pairs}

    def _weight(self, share: Share) -> FloatMatrix:
        """Return the adapter's weight, (donor, recipient), fitted on the fit fold."""
        pair = Pair(share.donor, share.recipient)
        grid = self._grid(pair)
        if share.adapter.kind == "identity":
            return np.eye(self.moments.at(grid, "fit").columns.channels[share.donor])
        fit = RidgeRegression.of(pair.donor, [pair.recipient], self._pooled(grid, "fit"))
        solution = fit.solution(self.ridge(pair).strength)
        ranked = solution.at_rank(share.adapter.rank) if share.adapter.rank else solution
        return np.asarray(ranked.weight.numpy())

    def _grid(self, pair: Pair) -> Grid:
        return self.facts[pair.recipient.model].stage(pair.recipient.stage).grid

    def _pooled(self, grid: Grid, *folds: FoldName) -> PooledMoments:
        return PooledMoments([self.moments.at(grid, fold) for fold in folds or FOLDS])

    def _norm(self, grid: Grid, ref: Ref) -> float:
        """Return the norm of the covariance of one representation on a grid."""
        if (grid, ref) not in self._norms:
            self._norms[grid, ref] = float(self._pooled(grid).square(ref).norm())
        return self._norms[grid, ref]

    def _widest_first(self, tasks: Iterable[DonorTask]) -> list[DonorTask]:
        """Sort tasks, which begin with a donor, so that the longest start first."""
        return sorted(tasks, key=lambda p: -self.facts[p[0].model].stage(p[0].stage).channels)

    def _solve_donor(self, donor: Ref, grid: Grid) -> dict[Pair, RidgeFit]:
        """Solve all recipients of one donor on one grid with one decomposition."""
        fit, held_out = self._pooled(grid, "fit"), self._pooled(grid, "held")
        recipients = fit.columns.recipients_of(donor)
        widths = [fit.columns.channels[ref] for ref in recipients]
        fitted = RidgeRegression.of(donor, recipients, fit)
        gains = fitted.gains(fitted.on(donor, recipients, held_out), widths, RIDGE_STRENGTHS)
        means = torch.split(fitted.recipient_mean, widths)
        ridges = {}
        for recipient, mean, gained in zip(recipients, means, gains.T, strict=True):
            best = int(gained.argmax())
            explained = _explained(float(gained[best]), held_out, recipient, mean)
            ridges[Pair(donor, recipient)] = RidgeFit(RIDGE_STRENGTHS[best], explained)
        return ridges

    def _check_varying(self) -> None:
        hsic = np.diag(self.moments.hsic)
        for ref, own in zip(self.moments.refs, hsic, strict=True):
            if not own > 0:
                raise DegenerateRepresentation(
                    f"{ref} does not vary over the frames; are they all the same image?"
                )


def _covariances(
    pair: Pair, moments: PooledMoments, about: tuple[FloatMatrix, FloatMatrix] | None = None
) -> Covariances:
    """Return mean products of deviations from `about`, or from the moments' own means."""
    if about:
        x, y = torch.from_numpy(about[0]), torch.from_numpy(about[1])
    else:
        x, y = moments.mean(pair.donor), moments.mean(pair.recipient)
    return Covariances(
        x.numpy(),
        y.numpy(),
        moments.square(pair.donor, x).numpy(),
        moments.product(pair.donor, [pair.recipient], (x, y)).numpy(),
        moments.square(pair.recipient, y).numpy(),
    )


def _fit_maps(
    donor: Ref, shares: list[Share], moments: PooledMoments, strength: float
) -> dict[Share, LinearMap]:
    """Return the maps of shares with the same donor, grid and ridge strength."""
    recipients = list(dict.fromkeys(share.recipient for share in shares))
    solution = RidgeRegression.of(donor, recipients, moments).solution(strength)
    widths = [moments.columns.channels[ref] for ref in recipients]
    parts = dict(zip(recipients, solution.split(widths), strict=True))
    maps = {}
    for share in shares:
        own = parts[share.recipient]
        ranked = own.at_rank(share.adapter.rank) if share.adapter.rank else own
        maps[share] = _stretched_map(ranked, donor, share.recipient, moments)
    return maps


def _stretched_map(
    solution: RidgeSolution, donor: Ref, recipient: Ref, moments: PooledMoments
) -> LinearMap:
    """Return the map about the means, each channel stretched to the recipient's variance."""
    weight = solution.weight * _stretch(solution.predicted, moments.variances(recipient))
    bias = moments.mean(recipient) - moments.mean(donor) @ weight
    return LinearMap(weight.float().T.contiguous(), bias.float())


def _stretch(predicted: Tensor, target: Tensor) -> Tensor:
    """Return factors (channels,) that turn predicted variances into the target ones.

    A channel that the donor does not explain keeps only its mean.
    """
    explained = predicted > NEGLIGIBLE_VARIANCE * target
    ratio = target / predicted.where(explained, torch.ones(()))
    return torch.where(explained, ratio.sqrt(), 1.0)


def _explained(gain: float, held_out: PooledMoments, recipient: Ref, about: Tensor) -> float:
    """Return 1 - residual / variance, where the map reduces the squared deviations by `gain`."""
    variance = _variance(held_out, recipient)
    return 1.0 - (held_out.variance(recipient, about) - gain) / variance


def _variance(held_out: PooledMoments, recipient: Ref) -> float:
    """Return the recipient's variance over the held-out frames, summed over channels."""
    variance = held_out.variance(recipient)
    if not variance > 0:
        raise DegenerateRepresentation(f"{recipient} does not vary over the held-out frames")
    return variance


def map_in_threads(work: Callable[[InputT], OutputT], items: Iterable[InputT]) -> list[OutputT]:
    """Return `work` of each item, in order.

    There are as many threads as torch would use, and each computes on one core: decomposing one
    matrix gains little from a second core, decomposing two at a time gains all of it.
    """
    listed = list(items)
    if len(listed) < 2:
        return [work(item) for item in listed]
    threads = torch.get_num_threads()

    def work_on_one_core(item: InputT) -> OutputT:
        torch.set_num_threads(1)
        return work(item)

    try:
        results: list[OutputT] = Parallel(threads, prefer="threads")(
            delayed(work_on_one_core)(item) for item in listed
        )
        return results
    finally:
        torch.set_num_threads(threads)
