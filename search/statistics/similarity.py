"""From moments to similarities and closed-form linear maps; no frame is touched here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from search.statistics.ridge import Regression, Solution
from search.statistics.second_moments import Pooled
from search.statistics.streaming import FOLDS, Fold, Matrix, Moments
from spaces.adapters import LinearMap
from spaces.errors import MergeSearchError
from spaces.model_facts import ModelFacts
from spaces.plan import LINEAR, Ref, Share
from spaces.shares import Pair
from spaces.stages import Grid

Problem = TypeVar("Problem", bound=tuple[Any, ...])
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths tried, relative to the donor's mean variance per channel."""

HOPELESS = 1e-6
"""A prediction with less than this part of the wanted variance is rounding."""


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


@dataclass(frozen=True)
class Residual:
    """How a recipient is missed on held-out frames, and how it varies; (recipient, recipient)."""

    error: Matrix
    """Mean products of what the adapted donor misses the recipient by."""
    spread: Matrix
    """Covariance of the recipient."""


class Statistics:
    """Moments seen pair by pair; what several pairs share is worked out once."""

    def __init__(self, moments: Moments, facts: Mapping[str, ModelFacts]) -> None:
        self.moments = moments
        self.facts = facts
        self._positions = {ref: k for k, ref in enumerate(moments.refs)}
        self._ridges: dict[Pair, Ridge] = {}
        self._norms: dict[tuple[Grid, Ref], float] = {}
        self._check_varying()

    def covariances(self, pair: Pair, *folds: Fold) -> Covariances:
        """Moments of the pair over the named folds (all of them if none is named)."""
        return _covariances(pair, self._pooled(self._grid(pair), *folds))

    def image_cka(self, pair: Pair) -> float:
        """Unbiased linear CKA with images as samples (the seed paper's S)."""
        i, j = self._positions[pair.donor], self._positions[pair.recipient]
        hsic = self.moments.hsic
        return float(hsic[i, j] / np.sqrt(hsic[i, i] * hsic[j, j]))

    def ridge(self, pair: Pair) -> Ridge:
        """The best of the ridge maps on held-out frames."""
        if pair not in self._ridges:
            self.solve([pair])
        return self._ridges[pair]

    def solve(self, pairs: Iterable[Pair]) -> None:
        """Work out `ridge` of many pairs; the donors are shared out among the cores."""
        unknown = [pair for pair in pairs if pair not in self._ridges]
        problems = dict.fromkeys((pair.donor, self._grid(pair)) for pair in unknown)
        solved = in_threads(lambda problem: self._solved(*problem), self._widest_first(problems))
        for ridges in solved:
            self._ridges |= ridges

    def position_cka(self, pair: Pair) -> float:
        """Linear CKA with positions as samples: ||S_xy||^2 / (||S_xx|| ||S_yy||)."""
        grid = self._grid(pair)
        cross = float(self._pooled(grid).product(pair.donor, [pair.recipient]).norm()) ** 2
        return cross / (self._norm(grid, pair.donor) * self._norm(grid, pair.recipient))

    def explained(self, share: Share) -> float:
        """Held-out share of the recipient's variance that the donor explains through the adapter.

        1 is perfect, 0 no better than the mean; negative where it does worse.

        Source: Kornblith et al. 2019, section 3 (linear regression).
        """
        if share.adapter == LINEAR:
            return self.ridge(Pair(share.donor, share.recipient)).explained
        residual = self.residual(share)
        return 1.0 - float(np.trace(residual.error) / np.trace(residual.spread))

    def residual(self, share: Share) -> Residual:
        """What the share's adapter, fitted on one fold, leaves of the recipient on the other."""
        pair = Pair(share.donor, share.recipient)
        fit, held = self.covariances(pair, "fit"), self._pooled(self._grid(pair), "held")
        weight = self._weight(share)
        moved = share.adapter.kind == "linear"
        about = (fit.donor_mean, fit.recipient_mean if moved else fit.donor_mean)
        cov = _covariances(pair, held, about)
        crossed = weight.T @ cov.xy
        error = cov.yy - crossed - crossed.T + weight.T @ (cov.xx @ weight)
        _variance(held, pair.recipient)
        return Residual(error, np.asarray(held.square(pair.recipient).numpy()))

    def linear_map(self, share: Share) -> LinearMap:
        """The share's map: ridge at the chosen strength, of its rank, spread as the recipient is.

        Fitted on all frames of both folds. What a regression predicts varies less than what it
        predicts, and the recipient's layers were trained on the full variance; so each of its
        channels is stretched about its mean to the variance that the recipient's has. It costs
        nothing, and merged models keep far more accuracy with it: docs/explanation/adapters.md.
        """
        return self.linear_maps([share])[share]

    def linear_maps(self, shares: Iterable[Share]) -> dict[Share, LinearMap]:
        """`linear_map` of many; those of one donor, grid and strength are solved at once."""
        wanted = {share: Pair(share.donor, share.recipient) for share in shares}
        self.solve(wanted.values())
        together: dict[tuple[Ref, Grid, float], list[Share]] = defaultdict(list)
        for share, pair in wanted.items():
            together[pair.donor, self._grid(pair), self.ridge(pair).strength].append(share)
        fitted = in_threads(
            lambda at: _fitted(at[0], together[at], self._pooled(at[1]), at[2]),
            self._widest_first(together),
        )
        found = {share: linear for maps in fitted for share, linear in maps.items()}
        return {share: found[share] for share in wanted}

    def _weight(self, share: Share) -> Matrix:
        """(donor, recipient) weight of the share's adapter, for tests on the held-out fold."""
        pair = Pair(share.donor, share.recipient)
        grid = self._grid(pair)
        if share.adapter.kind == "identity":
            return np.eye(self.moments.at(grid, "fit").columns.channels[share.donor])
        fit = Regression.of(pair.donor, [pair.recipient], self._pooled(grid, "fit"))
        solution = fit.solution(self.ridge(pair).strength)
        ranked = solution.at_rank(share.adapter.rank) if share.adapter.rank else solution
        return np.asarray(ranked.weight.numpy())

    def _grid(self, pair: Pair) -> Grid:
        return self.facts[pair.recipient.model].stage(pair.recipient.stage).grid

    def _pooled(self, grid: Grid, *folds: Fold) -> Pooled:
        return Pooled([self.moments.at(grid, fold) for fold in folds or FOLDS])

    def _norm(self, grid: Grid, ref: Ref) -> float:
        """Of the covariance of one representation on a grid."""
        if (grid, ref) not in self._norms:
            self._norms[grid, ref] = float(self._pooled(grid).square(ref).norm())
        return self._norms[grid, ref]

    def _widest_first(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems that begin with a donor, in the order in which cores are kept busy longest."""
        return sorted(problems, key=lambda p: -self.facts[p[0].model].stage(p[0].stage).channels)

    def _solved(self, donor: Ref, grid: Grid) -> dict[Pair, Ridge]:
        """All recipients of one donor on one grid share one decomposition of its moments."""
        fit, held = self._pooled(grid, "fit"), self._pooled(grid, "held")
        recipients = fit.columns.recipients_of(donor)
        widths = [fit.columns.channels[ref] for ref in recipients]
        fitted = Regression.of(donor, recipients, fit)
        gains = fitted.gains(fitted.on(donor, recipients, held), widths, LAMBDAS)
        means = torch.split(fitted.recipient_mean, widths)
        ridges = {}
        for recipient, mean, gained in zip(recipients, means, gains.T, strict=True):
            best = int(gained.argmax())
            explained = _explained(float(gained[best]), held, recipient, mean)
            ridges[Pair(donor, recipient)] = Ridge(LAMBDAS[best], explained)
        return ridges

    def _check_varying(self) -> None:
        hsic = np.diag(self.moments.hsic)
        for ref, own in zip(self.moments.refs, hsic, strict=True):
            if not own > 0:
                raise DegenerateRepresentation(
                    f"{ref} does not vary over the frames seen; are they all the same picture?"
                )


def _covariances(
    pair: Pair, moments: Pooled, about: tuple[Matrix, Matrix] | None = None
) -> Covariances:
    """Mean products of deviations from `about`, or from the moments' own means."""
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


def _fitted(
    donor: Ref, shares: list[Share], moments: Pooled, strength: float
) -> dict[Share, LinearMap]:
    recipients = list(dict.fromkeys(share.recipient for share in shares))
    solution = Regression.of(donor, recipients, moments).solution(strength)
    widths = [moments.columns.channels[ref] for ref in recipients]
    parts = dict(zip(recipients, solution.split(widths), strict=True))
    maps = {}
    for share in shares:
        own = parts[share.recipient]
        ranked = own.at_rank(share.adapter.rank) if share.adapter.rank else own
        maps[share] = _spread(ranked, donor, share.recipient, moments)
    return maps


def _spread(solution: Solution, donor: Ref, recipient: Ref, moments: Pooled) -> LinearMap:
    """The map about the means, each channel stretched to the recipient's variance."""
    weight = solution.weight * _stretch(solution.predicted, moments.variances(recipient))
    bias = moments.mean(recipient) - moments.mean(donor) @ weight
    return LinearMap(weight.float().T.contiguous(), bias.float())


def _stretch(predicted: Tensor, wanted: Tensor) -> Tensor:
    """(channels,) factors that give predictions of these variances the wanted ones.

    Of a channel that the donor knows nothing of nothing but the mean is left.
    """
    known = predicted > HOPELESS * wanted
    return torch.where(known, (wanted / predicted.where(known, torch.ones(()))).sqrt(), 1.0)


def _explained(gain: float, held: Pooled, recipient: Ref, about: Tensor) -> float:
    """1 - residual / variance, where the map takes `gain` off the squared deviations."""
    variance = _variance(held, recipient)
    return 1.0 - (held.variance(recipient, about) - gain) / variance


def _variance(held: Pooled, recipient: Ref) -> float:
    """The recipient's variance over the held-out frames, summed over channels, if it has any."""
    variance = held.variance(recipient)
    if not variance > 0:
        raise DegenerateRepresentation(f"{recipient} does not vary over the held-out frames")
    return variance


Item = TypeVar("Item")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `work` makes of each item, in order.

    As many threads as torch would use, each of which computes alone: a decomposition of one matrix
    gains little from a second core, two decompositions at once gain all of it.
    """
    listed = list(items)
    if len(listed) < 2:
        return [work(item) for item in listed]
    threads = torch.get_num_threads()

    def alone(item: Item) -> Result:
        torch.set_num_threads(1)
        return work(item)

    try:
        results: list[Result] = Parallel(threads, prefer="threads")(
            delayed(alone)(item) for item in listed
        )
        return results
    finally:
        torch.set_num_threads(threads)


Result = TypeVar("Result")
