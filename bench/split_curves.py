"""Curves of what is kept over the bytes sent, and the bytes at which two methods keep the same.

What a method keeps at its settings is noisy, and the cheapest setting that happens to keep enough
is often a lucky one. An isotonic fit knows that more bytes keep more: settings out of order share
their mean. A curve is that fit, linear between settings over the logarithm of the bytes.

Source: Barlow et al. 1972, "Statistical Inference under Order Restrictions" (the min-max formula).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from search.evaluation.bootstrap import DrawCounts, bootstrap_draws, percentile_interval
from search.evaluation.splits.link_scores import LinkScores
from search.evaluation.tasks.classification import ClassFrameScores
from search.utils.arrays import FloatMatrix, FloatVector


class Curve(NamedTuple):
    """The settings of one method, measured on the same frames; a row is a setting."""

    bytes: FloatMatrix
    """(settings, frames)"""
    agreement: FloatMatrix
    """(settings, frames): 1 where the answer is the unsplit one, 0 elsewhere."""

    @classmethod
    def of(cls, settings: Sequence[Sequence[LinkScores]]) -> Curve:
        """Return the curve of a classifier; each setting has scores on one or several sets."""
        return cls(
            np.array([np.concatenate([part.all_bytes for part in own]) for own in settings]),
            np.array([np.concatenate([*map(_agreement, own)]) for own in settings]),
        )

    def drawn(self, counts: DrawCounts) -> tuple[FloatMatrix, FloatMatrix]:
        """Return bytes and fitted fidelity, (draws, settings) each, by rising bytes."""
        frames = counts.sum(1, keepdims=True)
        sizes, kept = counts @ self.bytes.T / frames, counts @ self.agreement.T / frames
        order = sizes.argsort(1)
        return (np.take_along_axis(sizes, order, 1),
                isotonic(np.take_along_axis(kept, order, 1)))  # fmt: skip

    def bytes_at(self, target: float, counts: DrawCounts) -> FloatVector:
        """Return the bytes at which each draw keeps the target, (draws,).

        NaN where the cheapest setting keeps more, or the dearest keeps less.
        """
        sizes, kept = self.drawn(counts)
        enough = kept >= target
        above = enough.argmax(1)
        inside = enough.any(1) & (above > 0)
        rows, below = np.arange(len(kept)), np.maximum(above - 1, 0)
        low, high = kept[rows, below], kept[rows, above]
        part = np.divide(target - low, high - low, out=np.zeros(len(low)), where=high > low)
        logs = np.log(sizes)
        at = logs[rows, below] * (1 - part) + logs[rows, above] * part
        return np.where(inside, np.exp(at), np.nan)


def _agreement(scores: LinkScores) -> FloatVector:
    (own,) = scores.fidelity.values()
    assert isinstance(own, ClassFrameScores)
    return own.first.astype(np.float64)


def isotonic(values: FloatMatrix) -> FloatMatrix:
    """Return the rising rows that are closest to those of (rows, n) values in the mean square.

    The fit at i is the largest over starts a <= i of the smallest mean of a..b over ends b >= i.
    """
    count = values.shape[1]
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    fitted = np.full(values.shape, -np.inf)
    for first in range(count):
        means = (sums[:, first + 1 :] - sums[:, [first]]) / np.arange(1, count - first + 1)
        least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        fitted[:, first:] = np.maximum(fitted[:, first:], least)
    return fitted


def cheapest_on_curve(points: Sequence[LinkScores], target: float) -> int | None:
    """Return the number of the cheapest setting whose fit keeps the target, by rising bytes."""
    curve = Curve.of([[point] for point in points])
    _, kept = curve.drawn(np.ones((1, curve.bytes.shape[1])))
    enough = np.flatnonzero(kept[0] >= target)
    return int(enough[0]) if len(enough) else None


@dataclass(frozen=True, eq=False)
class EqualAnswers:
    """The bytes at which methods keep the target, over the same draws of the same frames."""

    curves: Mapping[str, Curve]
    """By method."""
    target: float

    @cached_property
    def _bytes(self) -> dict[str, tuple[float, FloatVector]]:
        """The bytes of each method on the frames as they are, and in each draw."""
        frames = next(iter(self.curves.values())).bytes.shape[1]
        draws = np.concatenate([*bootstrap_draws(frames, seed=0)])
        whole = np.ones((1, frames))
        return {
            method: (float(curve.bytes_at(self.target, whole)[0]),
                     curve.bytes_at(self.target, draws))
            for method, curve in self.curves.items()
        }  # fmt: skip

    def described(self, method: str) -> dict[str, Any]:
        """Return the bytes with their interval, see `_described`."""
        return _described(*self._bytes[method], digits=0)

    def ratio(self, first: str, second: str) -> dict[str, Any]:
        """Return the bytes of one method over those of another, draw by draw."""
        (ours, our_draws), (theirs, their_draws) = self._bytes[first], self._bytes[second]
        return _described(ours / theirs, our_draws / their_draws, digits=4)


def _described(value: float, drawn: FloatVector, digits: int) -> dict[str, Any]:
    """Return [value, low, high], None without a value, and the part of the draws that have one."""
    inside = float(np.isfinite(drawn).mean())
    if not np.isfinite(value):
        return {"at_target": None, "inside": inside}
    numbers = (value, *percentile_interval(value, drawn))
    return {"at_target": [round(number, digits) for number in numbers], "inside": inside}
