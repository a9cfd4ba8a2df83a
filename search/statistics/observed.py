"""A deployment, and what one pass over the frames has taught of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.data.frames import FrameSet, Subset
from search.statistics.similarity import Statistics
from spaces.adapters import LinearMap
from spaces.deployment import Deployment
from spaces.plan import Share, SharePlan
from spaces.precision import round_map


@dataclass(frozen=True)
class Part:
    """One of the sets that the frames came in: nothing of it depends on any but the first."""

    unseen: Subset
    """Those of its frames that no statistics have seen."""
    statistics: Callable[[], Statistics]
    """Of it and of the first part; they are read, and solved, only if they are asked for."""
    notes: Path
    """A folder for what is measured on it; another one for other models, frames or settings."""


@dataclass(frozen=True)
class Observed:
    """A deployment seen on frames: their statistics, and the frames kept for fidelity."""

    deployment: Deployment
    statistics: Statistics
    frames: FrameSet
    unseen: Subset
    """Frames that the statistics have not seen."""
    parts: tuple[Part, ...] = ()
    """The sets that the frames came in; none where nothing is to be remembered."""

    def maps_for(self, plans: Sequence[SharePlan]) -> dict[Share, LinearMap]:
        """The closed-form maps that the plans' linear shares need."""
        shares = {share for plan in plans for share in plan.shares}
        linear = sorted(share for share in shares if share.adapter.kind == "linear")
        fitted = self.statistics.linear_maps(linear)
        return {s: round_map(fit, self.deployment.dtype) for s, fit in fitted.items()}
