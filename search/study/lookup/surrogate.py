"""Predict what combinations of choices are worth from those that were looked up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.study.lookup.choices import Choices, Combination, LookedUp
from search.utils.arrays import FloatMatrix, FloatVector

TERM_RIDGE = 0.1
"""Of the regression: a value that was never looked up counts as the mean of its parameter."""
SMALLEST = 1e-12
"""Objectives that have been positive so far count as at least that."""
GAIN_DRAWS = 400
"""Draws of the box between the best and the worst, by which a gain is measured."""


class Surrogate:
    """An additive model of the logarithms of the objectives, one term for each choice.

    Costs of splits are near to products: of what crosses, how finely it is coded, and in which
    precision weights are stored.
    """

    def __init__(self, choices: Choices, points: Sequence[LookedUp], seed: int) -> None:
        self._columns = _columns(choices)
        values = np.array([point.outcome.values for point in points])
        self._is_log = (values > 0).all(0)
        merits = self._transformed(values)
        violations = np.array(
            [max(point.outcome.violations.values(), default=-1.0) for point in points]
        )
        targets = np.column_stack([merits, violations])
        features = self._features([point.combination for point in points])
        self._mean = targets.mean(0)
        penalty = TERM_RIDGE * np.eye(features.shape[1])
        self._terms = np.linalg.solve(
            features.T @ features + penalty, features.T @ (targets - self._mean)
        )
        self._front = merits[violations <= 0]
        box = self._front if len(self._front) else merits
        low, high = box.min(0), box.max(0)
        draws = np.random.default_rng(seed).random((GAIN_DRAWS, len(low)))
        self._free = _undominated(low + draws * (high - low), self._front)

    def add(self, point: LookedUp) -> None:
        """Take account of a point in what is dominated, without fitting again."""
        if point.outcome.feasible:
            merits = self._transformed(np.array([point.outcome.values]))
            self._free = _undominated(self._free, merits)

    def gains(self, combinations: Sequence[Combination]) -> FloatVector:
        """Return (combinations,) the share of the box that each is predicted to add, from 0.

        It is 0 for combinations that are predicted to break a limit.
        """
        predicted = self._features(combinations) @ self._terms + self._mean
        merits, violations = predicted[:, :-1], predicted[:, -1]
        covered = (merits[:, None] <= self._free[None]).all(2).sum(1)
        gains: FloatVector = covered * (violations <= 0) / GAIN_DRAWS
        return gains

    def _features(self, combinations: Sequence[Combination]) -> FloatMatrix:
        """Return (combinations, choices) with 1 for each choice that is made."""
        columns = [[self._columns[chosen] for chosen in c.items()] for c in combinations]
        features = np.zeros((len(combinations), len(self._columns)))
        np.put_along_axis(features, np.array(columns), 1.0, 1)
        return features

    def _transformed(self, values: FloatMatrix) -> FloatMatrix:
        """Return the logarithms of objectives that are positive, and the others as they are."""
        positive = np.where(self._is_log, np.maximum(values, SMALLEST), 1.0)
        return np.where(self._is_log, np.log(positive), values)


def _columns(choices: Choices) -> dict[tuple[str, str], int]:
    chosen = [(name, value) for name, values in choices.values.items() for value in values]
    return {choice: column for column, choice in enumerate(chosen)}


def _undominated(draws: FloatMatrix, points: FloatMatrix) -> FloatMatrix:
    """Return the draws that no point is better than in all objectives."""
    for point in points:
        draws = draws[~(point <= draws).all(1)]
    return draws
