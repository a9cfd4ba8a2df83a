"""A deployment: the models of one box, and which representations they may share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from spaces.batchnorm_fusion import fuse_batchnorms
from spaces.merged import ModelsByName
from spaces.model_facts import ModelFacts
from spaces.plan import IDENTITY, AdapterSpec, Share, SharePlan
from spaces.precision import Dtype, rounded_model
from spaces.prefixes import find_identical
from spaces.shares import Pair, Pairs, enumerate_shares
from spaces.stages import StagedModel


@dataclass(frozen=True)
class Deployment:
    """The models by name, the facts about them, and the pairs that may be shared."""

    models: ModelsByName
    facts: Mapping[str, ModelFacts]
    pairs: Pairs

    @cached_property
    def fused_models(self) -> ModelsByName:
        """Copies of the models with fused BatchNorms: the same outputs, computed faster."""
        return {name: fuse_batchnorms(model) for name, model in self.models.items()}

    @property
    def dtype(self) -> Dtype:
        """The precision in which bundles store the weights."""
        return next(iter(self.facts.values())).dtype

    @cached_property
    def deployed_models(self) -> ModelsByName:
        """The fused models with weights rounded to `dtype`, as a bundle runs them.

        Verification measures these.
        """
        if self.dtype == "float32":
            return self.fused_models
        return {
            name: fuse_batchnorms(rounded_model(m, self.dtype)) for name, m in self.models.items()
        }

    @cached_property
    def identical_pairs(self) -> frozenset[Pair]:
        """The legal pairs whose representations are equal: `spaces.prefixes.find_identical`."""
        return find_identical(self.models, self.pairs.legal)

    @cached_property
    def distinct_pairs(self) -> tuple[Pair, ...]:
        """The legal pairs whose representations differ, in their order."""
        return tuple(pair for pair in self.pairs.legal if pair not in self.identical_pairs)

    def shares(self, adapters: Sequence[AdapterSpec]) -> tuple[Share, ...]:
        """Return every legal share with each of the adapters that fits its channels.

        Equal representations are shared as they are, whatever the adapters.
        """
        return tuple(
            share
            for pair in self.pairs.legal
            for share in enumerate_shares(
                [pair], self.facts, [IDENTITY] if pair in self.identical_pairs else adapters
            )
        )

    def without_needless_maps(self, plan: SharePlan) -> SharePlan:
        """Return the plan with equal representations shared as they are."""
        return replace(
            plan,
            shares=tuple(
                replace(share, adapter=IDENTITY)
                if Pair(share.donor, share.recipient) in self.identical_pairs
                else share
                for share in plan.shares
            ),
        )

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of the stages, input and weights of each model."""
        return {name: _fingerprint(model) for name, model in self.models.items()}


def _fingerprint(model: StagedModel) -> str:
    # tasks without classes compare equal answers in different ways
    settings = (model.layout, model.input, model.num_classes or model.task)
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
