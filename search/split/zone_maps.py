"""The maps of a codec over channels, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.split.zone_statistics import ZoneStatistics
from search.utils.arrays import FloatMatrix, FloatVector
from spaces.split.transform import ForwardTransform, InverseTransform

RIDGE = 1e-2
"""Every channel counts at least this part of what the mean channel counts."""
SMALLEST_WEIGHT = 1e-30
"""Of a representation of which the answers do not depend."""


@dataclass(frozen=True, eq=False)
class ZoneMap:
    """The Karhunen-Loève transform of one zone, in a metric in which errors count alike.

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
        of a full map.
        """
        spread = np.linalg.solve(self.weight, forward.T)
        return np.asarray(np.linalg.solve(forward @ spread, spread.T).T)


@dataclass(frozen=True, eq=False)
class FittedTransform:
    """Both directions of one crossing representation."""

    forward: ForwardTransform
    inverse: InverseTransform
    lost: float
    """The mean distortion by the coefficients that are left out."""


def fit_transforms(
    statistics: Sequence[ZoneStatistics],
    weights: Sequence[Sequence[FloatMatrix]],
    device_values: int,
) -> list[FittedTransform]:
    """Return the transforms of all crossing representations of one split.

    Their maps have at most `device_values` entries together: those rows are left out whose
    variance is least for what they take.
    """
    maps = [
        [ZoneMap.fit(*zone) for zone in zip(part.covariances, weight, strict=True)]
        for part, weight in zip(statistics, weights, strict=True)
    ]
    ranks = _choose_ranks(statistics, maps, device_values)
    return [_transforms(*parts) for parts in zip(statistics, maps, ranks, strict=True)]


def _choose_ranks(
    statistics: Sequence[ZoneStatistics], maps: Sequence[Sequence[ZoneMap]], device_values: int
) -> list[list[int]]:
    gains, costs, owners = [], [], []
    for number, (part, zones) in enumerate(zip(statistics, maps, strict=True)):
        for zone, (size, fitted) in enumerate(zip(part.form.zone_sizes, zones, strict=True)):
            gains.append(fitted.variances * size / part.form.channels)
            costs += [part.form.channels] * part.form.channels
            owners += [(number, zone)] * part.form.channels
    order = np.argsort(-np.concatenate(gains), kind="stable")
    fitting = order[np.cumsum(np.array(costs)[order]) <= device_values]
    ranks = [[0] * len(zones) for zones in maps]
    for row in fitting:
        number, zone = owners[row]
        ranks[number][zone] += 1
    return ranks


def _transforms(
    statistics: ZoneStatistics, zones: Sequence[ZoneMap], ranks: Sequence[int]
) -> FittedTransform:
    form, mean = statistics.form, torch.from_numpy(statistics.mean).float()
    kept = [
        torch.from_numpy(zone.forward[:rank].copy())
        for zone, rank in zip(zones, ranks, strict=True)
    ]
    forward = ForwardTransform(form, mean, kept)
    backward = [
        _backward(zone, rounded) for zone, rounded in zip(zones, forward.zone_maps, strict=True)
    ]
    lost = sum(
        size * float(zone.variances[rank:].sum())
        for size, zone, rank in zip(form.zone_sizes, zones, ranks, strict=True)
    )
    return FittedTransform(forward, InverseTransform(form, mean, backward), lost)


def _backward(zone: ZoneMap, rounded: Tensor) -> Tensor:
    inverse = zone.inverse(rounded.double().numpy())
    return torch.from_numpy(inverse.T.copy()).float()
