"""How much memory the statistics take, computed before any frame is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.statistics.streaming import PassSettings, pairs_by_grid
from spaces.deployment import Deployment
from spaces.model_facts import ModelFacts
from spaces.plan import Ref


@dataclass(frozen=True)
class StatisticsFootprint:
    """Bytes that statistics take beside the models."""

    rows: int
    """Of the sampled rows of all frames: about the size of their cache file."""
    work: int
    """While the pass runs, or while the maps of the widest donor are computed."""

    @property
    def total(self) -> int:
        return self.rows + self.work


def footprint(
    deployment: Deployment, settings: PassSettings, frames: Sequence[int]
) -> StatisticsFootprint:
    """Return the bytes for sets of so many frames each."""
    return StatisticsFootprint(0, 0)
