"""Similarities and closed-form linear maps from moments; no frame is read here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from search.statistics.ridge import DonorComponents, RidgeRegression, RidgeSolution
from search.statistics.rows import FOLDS, FoldName
from search.statistics.second_moments import SecondMoments, squares
from search.statistics.streaming import Moments
from search.utils.arrays import FloatMatrix, FloatVector
from spaces.adapters import LinearMap
from spaces.errors import MergeSearchError
from spaces.model_facts import ModelFacts
from spaces.plan import LINEAR, Ref, Share
from spaces.shares import Pair
from spaces.stages import Grid

DonorTask = tuple[Ref, Grid]
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
    """Centred second moments of one pair over both folds."""

    donor_mean: FloatVector
    recipient_mean: FloatVector
    donor_variance: float
    """Summed over channels."""
    recipient_variance: float
    """Summed over channels."""
    xy: FloatMatrix
    """(donor, recipient)"""


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
        self._moments: dict[tuple[Grid, tuple[FoldName, ...]], SecondMoments] = {}
        self._check_varying()

    def covariances(self, pair: Pair) -> Covariances:
        """Return the covariances of the pair over both folds."""
        moments = self._at(self._grid(pair))
        return Covariances(
            np.asarray(moments.mean(pair.donor).numpy()),
            np.asarray(moments.mean(pair.recipient).numpy()),
            moments.variance(pair.donor),
            moments.variance(pair.recipient),
            np.asarray(moments.product(pair.donor, pair.recipient).numpy()),
        )

    def image_cka(self, pair: Pair) -> float:
        """Return the unbiased linear CKA with images as samples; 1 is best.

        Source: Nguyen et al. 2021; this is the similarity S of Cao et al. 2024.
        """
        i, j = self._positions[pair.donor], self._positions[pair.recipient]
        hsic = self.moments.hsic
        return float(hsic[i, j] / np.sqrt(hsic[i, i] * hsic[j, j]))

    def ridge(self, pair: Pair) -> RidgeFit:
        """Return the ridge map that is best on held-out frames.

        If it is not known yet, those of all recipients of the donor on this grid are computed:
        most of the work is the donor's. `solve` computes certain pairs only.
        """
        if pair not in self._ridges:
            grid = self._grid(pair)
            recipients = self.moments.grids[grid].recipients_of(pair.donor)
            self.solve(Pair(pair.donor, recipient) for recipient in recipients)
        return self._ridges[pair]

    def solve(self, pairs: Iterable[Pair]) -> None:
        """Compute `ridge` of many pairs, the donors in parallel."""
        tasks: dict[DonorTask, list[Pair]] = defaultdict(list)
        for pair in pairs:
            if pair not in self._ridges:
                tasks[pair.donor, self._grid(pair)].append(pair)
        solved = map_in_threads(
            lambda task: self._solve_donor(*task, tasks[task]), self._widest_first(tasks)
        )
        for ridges in solved:
            self._ridges |= ridges

    def position_cka(self, pair: Pair) -> float:
        """Return the linear CKA with positions as samples: ||S_xy||^2 / (||S_xx|| ||S_yy||).

        Source: Kornblith et al. 2019.
        """
        grid = self._grid(pair)
        cross = float(self._at(grid).product(pair.donor, pair.recipient).norm()) ** 2
        return cross / (self._norm(grid, pair.donor) * self._norm(grid, pair.recipient))

    def explained(self, share: Share) -> float:
        """Return the held-out share of the recipient's variance that the adapted donor explains.

        1 is perfect, 0 is no better than the mean, and a worse map gives a negative value.

        Source: Kornblith et al. 2019, section 3 (linear regression).
        """
        if share.adapter == LINEAR:
            return self.ridge(Pair(share.donor, share.recipient)).explained
        recipient, error = share.recipient, float(squares(self._residual_rows(share)).sum())
        held_out = self._at(self._grid(Pair(share.donor, recipient)), "held")
        return 1.0 - error / _variance(held_out, recipient)

    def residual(self, share: Share) -> Residual:
        """Return the residual, on the held-out fold, of the adapter fitted on the other fold."""
        held_out = self._at(self._grid(Pair(share.donor, share.recipient)), "held")
        error = self._residual_rows(share).double()
        spread = held_out.deviations(share.recipient).double()
        return Residual(
            np.asarray((error.T @ error).numpy()), np.asarray((spread.T @ spread).numpy())
        )

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
        tasks: dict[DonorTask, list[Share]] = defaultdict(list)
        for share, pair in pairs.items():
            tasks[pair.donor, self._grid(pair)].append(share)
        fitted = map_in_threads(
            lambda task: self._fit_maps(*task, tasks[task]), self._widest_first(tasks)
        )
        map_by_share = {share: linear for maps in fitted for share, linear in maps.items()}
        return {share: map_by_share[share] for share in pairs}

    def _residual_rows(self, share: Share) -> Tensor:
        """Return what the adapter, fitted on the fit fold, leaves of the recipient's rows.

        The rows are those held out, (rows, recipient channels).
        """
        pair = Pair(share.donor, share.recipient)
        fit, held_out = (self._at(self._grid(pair), fold) for fold in FOLDS)
        donor_mean = fit.mean(pair.donor)
        rows = held_out.deviations(pair.donor, donor_mean)
        if share.adapter.kind == "identity":
            return held_out.deviations(pair.recipient, donor_mean) - rows
        solver = RidgeRegression.of(pair.donor, fit).solver(self.ridge(pair).strength)
        solution = solver.solution(fit.deviations(pair.recipient))
        ranked = solution.at_rank(share.adapter.rank) if share.adapter.rank else solution
        recipient = held_out.deviations(pair.recipient, fit.mean(pair.recipient))
        return recipient - rows.double() @ ranked.weight

    def _grid(self, pair: Pair) -> Grid:
        return self.facts[pair.recipient.model].stage(pair.recipient.stage).grid

    def _at(self, grid: Grid, *folds: FoldName) -> SecondMoments:
        """Return the moments of a grid over the given folds, by default over both."""
        key = (grid, folds or FOLDS)
        if key not in self._moments:
            self._moments[key] = SecondMoments(self.moments.grids[grid], key[1])
        return self._moments[key]

    def _norm(self, grid: Grid, ref: Ref) -> float:
        """Return the norm of the covariance of one representation on a grid."""
        if (grid, ref) not in self._norms:
            self._norms[grid, ref] = float(self._at(grid).product(ref, ref).norm())
        return self._norms[grid, ref]

    def _widest_first(self, tasks: Iterable[DonorTask]) -> list[DonorTask]:
        """Sort tasks, which begin with a donor, so that the longest start first."""
        return sorted(tasks, key=lambda p: -self.facts[p[0].model].stage(p[0].stage).channels)

    def _solve_donor(self, donor: Ref, grid: Grid, pairs: Sequence[Pair]) -> dict[Pair, RidgeFit]:
        """Solve recipients of one donor on one grid with one decomposition."""
        fit, held_out = self._at(grid, "fit"), self._at(grid, "held")
        components = DonorComponents.of(donor, fit, held_out, RIDGE_STRENGTHS)
        ridges = {}
        for pair in pairs:
            recipient, mean = pair.recipient, fit.mean(pair.recipient)
            rows = held_out.deviations(recipient, mean)
            gains = components.gains(fit.deviations(recipient), rows)
            best = int(gains.argmax())
            error = float(squares(rows).sum() - gains[best])
            explained = 1.0 - error / _variance(held_out, recipient)
            ridges[pair] = RidgeFit(RIDGE_STRENGTHS[best], explained)
        return ridges

    def _fit_maps(self, donor: Ref, grid: Grid, shares: Sequence[Share]) -> dict[Share, LinearMap]:
        """Return the maps of shares with the same donor and grid, fitted on both folds."""
        moments = self._at(grid)
        regression = RidgeRegression.of(donor, moments)
        by_strength: dict[float, dict[Ref, list[Share]]] = {}
        for share in shares:
            strength = self.ridge(Pair(donor, share.recipient)).strength
            by_strength.setdefault(strength, {}).setdefault(share.recipient, []).append(share)
        maps = {}
        for strength, recipients in by_strength.items():
            solver = regression.solver(strength)
            for recipient, own in recipients.items():
                solution = solver.solution(moments.deviations(recipient))
                for share in own:
                    rank = share.adapter.rank
                    ranked = solution.at_rank(rank) if rank else solution
                    maps[share] = _stretched_map(ranked, donor, recipient, moments)
        return maps

    def _check_varying(self) -> None:
        hsic = np.diag(self.moments.hsic)
        for ref, own in zip(self.moments.refs, hsic, strict=True):
            if not own > 0:
                raise DegenerateRepresentation(
                    f"{ref} does not vary over the frames; are they all the same image?"
                )


def _stretched_map(
    solution: RidgeSolution, donor: Ref, recipient: Ref, moments: SecondMoments
) -> LinearMap:
    """Return the map about the means, each channel stretched to the recipient's variance."""
    variances = squares(moments.deviations(recipient))
    weight = solution.weight * _stretch(solution.predicted, variances)
    bias = moments.mean(recipient) - moments.mean(donor) @ weight
    return LinearMap(weight.float().T.contiguous(), bias.float())


def _stretch(predicted: Tensor, target: Tensor) -> Tensor:
    """Return factors (channels,) that turn predicted variances into the target ones.

    A channel that the donor does not explain keeps only its mean.
    """
    explained = predicted > NEGLIGIBLE_VARIANCE * target
    ratio = target / predicted.where(explained, torch.ones(()))
    return torch.where(explained, ratio.sqrt(), 1.0)


def _variance(held_out: SecondMoments, recipient: Ref) -> float:
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
