"""The interface of a metric, which computes a label-free similarity for every share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from search.statistics.observed import Observed
from search.utils.progress import Progress, silent
from spaces.plan import Share


class Metric(ABC):
    """Predicts how well a share keeps its recipient's answers: 1 is best, 0 or less is useless."""

    name: ClassVar[str]
    """The metric's name in configs and results."""
    label: ClassVar[str]
    """A short description for tables and figures."""
    stands_alone: ClassVar[bool] = True
    """Whether the value of a share does not depend on the other shares: only then does `correlate`
    compare the metric with others."""

    @abstractmethod
    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        """Return the similarity of every share; `progress` counts the finished shares."""


class PerShareMetric(Metric):
    """A metric that is computed for each share on its own, without running a model."""

    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        values = {}
        for share in shares:
            values[share] = self._similarity(observed, share)
            progress(1)
        return values

    @abstractmethod
    def _similarity(self, observed: Observed, share: Share) -> float: ...
