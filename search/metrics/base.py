"""What a metric is: a label-free number for every share, worked out before the search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from search.statistics.observed import Observed
from search.utils.progress import Progress, silent
from spaces.plan import Share


class Metric(ABC):
    """How well each share keeps its recipient going; 1 is best, 0 or less is worthless."""

    name: ClassVar[str]
    label: ClassVar[str]

    @abstractmethod
    def similarities(
        self, observed: Observed, shares: Sequence[Share], progress: Progress = silent
    ) -> dict[Share, float]:
        """The number of every share; `progress` hears of each share done."""


class Lookup(Metric):
    """A metric that is worked out share by share, without running a model."""

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
