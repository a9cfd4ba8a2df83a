"""A deployment, and what one pass over the frames has taught of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search.data.frames import FrameSet, Subset
from search.statistics.similarity import Statistics
from spaces.adapters import LinearMap
from spaces.model_facts import ModelFacts
from spaces.batchnorm_fusion import fused
from spaces.merged import Models
from spaces.plan import Share, SharePlan
from spaces.precision import Dtype, rounded, rounded_map
from spaces.shares import Pairs
from spaces.stages import StagedModel


@dataclass(frozen=True)
class Deployment:
    """The models, all that is known of them, and which representations may replace which."""

    models: Models
    facts: Mapping[str, ModelFacts]
    pairs: Pairs

    @cached_property
    def running(self) -> Models:
        """The models' fused twins: they answer as the models do, and sooner."""
        return {name: fused(model) for name, model in self.models.items()}

    @property
    def dtype(self) -> Dtype:
        """In which merged models keep their weights."""
        return next(iter(self.facts.values())).dtype

    @cached_property
    def served(self) -> Models:
        """The twins of the models as they are deployed, with the weights that their dtype can
        hold: what is verified."""
        if self.dtype == "float32":
            return self.running
        return {name: fused(rounded(m, self.dtype)) for name, m in self.models.items()}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of each model's stages, input and weights."""
        return {name: _fingerprint(model) for name, model in self.models.items()}


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
        return {s: rounded_map(fit, self.deployment.dtype) for s, fit in fitted.items()}


def _fingerprint(model: StagedModel) -> str:
    digest = hashlib.sha256(repr((model.layout, model.input, model.num_classes)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
