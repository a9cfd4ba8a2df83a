"""The maps of a codec over channels, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.split.zone_statistics import ZoneStatistics
from search.utils.arrays import FloatMatrix, FloatVector
from spaces.split.transform import ChannelMaps, ForwardTransform, InverseTransform

RIDGE = 1e-2
"""Every channel counts at least this part of what the mean channel counts."""
SMALLEST_RATIO = 1e-12
"""Of the singular values of rounded rows."""
SMALLEST_WEIGHT = 1e-30
"""Of a representation of which the answers do not depend."""

Ranks = Sequence[Sequence[int]]
"""The rows of each map of each crossing representation."""


@dataclass(frozen=True, eq=False)
class ZoneMap:
    """The Karhunen-Loève transform of some zones, in a metric in which errors count alike.

    With the weight W and the covariance C of the channels, it is U' W^(1/2), where U are the
    eigenvectors of W^(1/2) C W^(1/2): an error of variance d in one coefficient then is an error
    of trace(W E) = d in the channels, and the coefficients are uncorrelated.
    """

    weight: FloatMatrix
    """(c, c), regularised."""
    forward: FloatMatrix
    """(c, c): a row per coefficient, of decreasing variance."""
    variances: FloatVector
    """(c,) of each coefficient."""

    @classmethod
    def fit(cls, covariance: FloatMatrix, weight: FloatMatrix) -> ZoneMap:
        """Return the map for a covariance and a weight, (c, c) each."""
        level = max(float(np.trace(weight)) / len(weight), SMALLEST_WEIGHT)
        regular = weight + RIDGE * level * np.eye(len(weight))
        values, vectors = np.linalg.eigh(regular)
        root = (vectors * np.sqrt(values)) @ vectors.T
        variances, directions = np.linalg.eigh(root @ covariance @ root)
        forward = directions.T[::-1] @ root
        return cls(regular, forward, np.maximum(variances[::-1], 0))

    def inverse(self, forward: FloatMatrix) -> FloatMatrix:
        """Return the map back, (c, r), of some rounded rows (r, c) of `forward`.

        It has the least error in the metric: W^-1 F' (F W^-1 F')^-1, which is the exact inverse
        of a full map. Rows that rounding has made equal or 0 give nothing twice.
        """
        spread = np.linalg.solve(self.weight, forward.T)
        gram = np.linalg.pinv(forward @ spread, rcond=SMALLEST_RATIO, hermitian=True)
        return np.asarray(spread @ gram)


@dataclass(frozen=True, eq=False)
class FittedTransform:
    """Both directions of one crossing representation."""

    forward: ForwardTransform
    inverse: InverseTransform
    lost: float
    """The mean distortion by the coefficients that are left out."""


class _Fit:
    """The maps of one crossing representation at full rank.

    Zones that share a map have the same weight up to a factor, the square of their gain.
    """

    def __init__(self, statistics: ZoneStatistics, weights: Sequence[FloatMatrix]) -> None:
        self.statistics, form = statistics, statistics.form
        owners, sizes = np.array(form.map_of_zones), np.array(form.zone_sizes)
        traces = np.array([np.trace(weight) for weight in weights]) + SMALLEST_WEIGHT
        self.sizes = np.bincount(owners, sizes)
        means = np.bincount(owners, sizes * traces) / self.sizes
        self.gains = np.sqrt(traces / means[owners])
        self.maps: list[ZoneMap] = []
        for number, size in enumerate(self.sizes):
            zones, weight, covariance = np.flatnonzero(owners == number), 0.0, 0.0
            for zone in map(int, zones):
                part = sizes[zone] / size
                weight = weight + part * weights[zone]
                covariance = (
                    covariance + part * self.gains[zone] ** 2 * statistics.covariances[zone]
                )
            self.maps.append(ZoneMap.fit(np.asarray(covariance), np.asarray(weight)))

    def transforms(self, ranks: Sequence[int]) -> FittedTransform:
        """Return both directions, with so many rows of each map."""
        form, mean = self.statistics.form, torch.from_numpy(self.statistics.mean)
        gains = torch.from_numpy(self.gains).float()
        rows = zip(self.maps, ranks, strict=True)
        kept = [torch.from_numpy(part.forward[:rank].copy()) for part, rank in rows]
        forward = ForwardTransform(form, ChannelMaps(mean, gains, kept))
        rounded = zip(self.maps, forward.channel_maps, strict=True)
        back = ChannelMaps(mean, 1 / gains, [_backward(*pair) for pair in rounded])
        lost = sum(
            size * float(part.variances[rank:].sum())
            for size, part, rank in zip(self.sizes, self.maps, ranks, strict=True)
        )
        return FittedTransform(forward, InverseTransform(form, back), lost)


def fit_transforms(
    statistics: Sequence[ZoneStatistics],
    weights: Sequence[Sequence[FloatMatrix]],
    size: int | Ranks,
) -> list[FittedTransform]:
    """Return the transforms of all crossing representations of one split.

    `size` is the ranks of their maps, or how many entries the maps may have together: those rows
    are left out whose variance is least for what they take.
    """
    fits = [_Fit(*parts) for parts in zip(statistics, weights, strict=True)]
    ranks = _choose_ranks(fits, size) if isinstance(size, int) else size
    return [fit.transforms(part) for fit, part in zip(fits, ranks, strict=True)]


def _choose_ranks(fits: Sequence[_Fit], device_values: int) -> list[list[int]]:
    """Return how many rows of each map are kept."""
    gains: list[FloatVector] = []
    owners: list[tuple[int, int, int]] = []
    for number, fit in enumerate(fits):
        channels = fit.statistics.form.channels
        for place, (size, part) in enumerate(zip(fit.sizes, fit.maps, strict=True)):
            gains.append(part.variances * size / channels)
            owners += [(number, place, channels)] * channels
    ranks, left = [[0] * len(fit.maps) for fit in fits], device_values
    for row in np.argsort(-np.concatenate(gains), kind="stable"):
        number, place, channels = owners[row]
        if channels > left:
            break
        ranks[number][place] += 1
        left -= channels
    return ranks


def _backward(part: ZoneMap, rounded: Tensor) -> Tensor:
    inverse = part.inverse(rounded.double().numpy())
    return torch.from_numpy(inverse.T.copy())
