"""The models of one box, and what can be shared between them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.merged import ModelsByName
from spaces.model_facts import ModelFacts
from spaces.precision import Dtype, round_weights
from spaces.shares import Pairs
from spaces.stages import StagedModel


@dataclass(frozen=True)
class Deployment:
    """The models, all that is known of them, and which representations may replace which."""

    models: ModelsByName
    facts: Mapping[str, ModelFacts]
    pairs: Pairs

    @cached_property
    def fused_models(self) -> ModelsByName:
        """The models' fused twins: they answer as the models do, and sooner."""
        return {name: fuse_batchnorms(model) for name, model in self.models.items()}

    @property
    def dtype(self) -> Dtype:
        """In which merged models keep their weights."""
        return next(iter(self.facts.values())).dtype

    @cached_property
    def deployed_models(self) -> ModelsByName:
        """The twins of the models as they are deployed, with the weights that their dtype can
        hold: what is verified."""
        if self.dtype == "float32":
            return self.fused_models
        return {
            name: fuse_batchnorms(round_weights(m, self.dtype)) for name, m in self.models.items()
        }

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of each model's stages, input and weights."""
        return {name: _fingerprint(model) for name, model in self.models.items()}


def _fingerprint(model: StagedModel) -> str:
    digest = hashlib.sha256(repr((model.layout, model.input, model.num_classes)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
