"""Propose combinations of choices, none of them twice."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from search.study.lookup.choices import Choices, Combination, LookedUp
from search.study.lookup.surrogate import Surrogate


class ChoiceSampler(BaseSampler):
    """Proposes the starts, then combinations that are predicted to add most to the front."""

    FIRST = 30
    """Combinations that are drawn before anything is predicted."""
    ANYWHERE = 0.1
    """Chance to propose any combination later on."""
    POOL = 150
    """Combinations that are drawn, of which the best is proposed."""
    REFIT = 10
    """Proposals until the prediction is fitted again."""
    ATTEMPTS = 60
    """Draws until a combination is new; then the space is enumerated."""

    def __init__(
        self,
        choices: Choices,
        known: Mapping[str, LookedUp],
        starts: Sequence[Combination],
        seed: int,
    ) -> None:
        self.choices = choices
        self.known = known
        """What was looked up, by the key of the combination; the caller adds to it."""
        self._starts = iter([dict(start) for start in starts])
        self._enumeration = choices.all()
        self._seed = seed
        self._random = random.Random(seed)
        self._surrogate: Surrogate | None = None
        self._fitted_to = self._seen = 0

    def reseed_rng(self) -> None:
        self._random.seed()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return choice_distributions(self.choices)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a combination that is not known, of which there must be one."""
        return next(c for c in self._proposals() if not self._is_known(c))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._random.choice(self.choices.values[param_name])

    def _is_known(self, combination: Combination) -> bool:
        return self.choices.key(combination) in self.known

    def _proposals(self) -> Iterator[dict[str, str]]:
        yield from self._starts
        yield self._propose()
        for _ in range(self.ATTEMPTS):
            yield self._draw()
        for combination in self._enumeration:  # noqa: UP028 - which would close it for later
            yield combination

    def _propose(self) -> dict[str, str]:
        """Return the most promising of a pool of combinations."""
        if len(self.known) < self.FIRST or self._random.random() < self.ANYWHERE:
            return self._draw()
        pool = [drawn for _ in range(self.POOL) if not self._is_known(drawn := self._draw())]
        gains = self._predict().gains(pool) if pool else np.zeros(0)
        return pool[int(gains.argmax())] if gains.any() else self._draw()

    def _predict(self) -> Surrogate:
        points = [*self.known.values()]
        if self._surrogate is None or len(points) >= self._fitted_to + self.REFIT:
            self._surrogate = Surrogate(self.choices, points, self._seed)
            self._fitted_to = len(points)
        else:
            for point in points[self._seen :]:
                self._surrogate.add(point)
        self._seen = len(points)
        return self._surrogate

    def _draw(self) -> dict[str, str]:
        return {name: self._random.choice(values) for name, values in self.choices.values.items()}


class RandomChoiceSampler(ChoiceSampler):
    """Proposes any combination that is not known: what the other one is measured against."""

    def _propose(self) -> dict[str, str]:
        return self._draw()


def choice_distributions(choices: Choices) -> dict[str, BaseDistribution]:
    """Return the distributions of the parameters, as Optuna wants them."""
    return {name: CategoricalDistribution(values) for name, values in choices.values.items()}
