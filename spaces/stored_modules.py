"""Stages, heads and adapters as a bundle runs them: maps folded in, then weights rounded."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spaces.adapters import Adapter, build_adapter
from spaces.batchnorm_fusion import fuse_stage
from spaces.liveness import liveness
from spaces.map_folding import find_fold_targets
from spaces.merged import LinearMaps, MergedModel, ModelsByName, map_to_fold, with_folded
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import AS_GIVEN, Node, Output, Weights, WeightsByOwner
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.precision import Dtype, round_weights, store_weights
from spaces.stages import StagedModel


def stored_weights(plan: SharePlan, facts: Mapping[str, ModelFacts]) -> WeightsByOwner:
    """Return the weights that a canonical plan stores in another precision than the models'.

    A map is folded only if one of the layers that take it in is rounded afterwards. Otherwise it
    stays an adapter here, unrounded, which gives the same answers without a copy of the layers.
    """
    if not plan.precisions:
        return {}
    live, precisions = liveness(plan, layouts_by_model(facts)), plan.precision_by_owner
    folds: defaultdict[Ref, list[tuple[str, Share]]] = defaultdict(list)
    weights: dict[Ref, Weights] = {}
    for share in plan.shares:
        fold = find_fold_targets(share, live, facts)
        owners = [Ref(share.recipient.model, consumer.owner) for consumer in fold.consumers]
        rounded = any(precisions.get(owner, "float32") != "float32" for owner in owners)
        if not fold.refusal:
            weights[share.recipient] = Weights(folded_away=rounded)
        if rounded:
            for owner, consumer in zip(owners, fold.consumers, strict=True):
                folds[owner].append((consumer.path, share))
    return {
        owner: Weights(precisions.get(owner), tuple(folds[owner]))
        for owner in {*precisions, *folds}
    } | weights


def rounded_copy(merged: MergedModel, dtype: Dtype) -> MergedModel:
    """Return a float32 copy with weights rounded as a bundle of this plan and dtype stores them.

    Raises:
        BadWeights: a weight is too large for its precision.
    """
    copied, precisions = copy.deepcopy(merged), merged.plan.precision_by_owner
    for _, owner, module in copied.parts():
        round_weights(module, precisions.get(owner, dtype), str(owner))
    return copied


def stored_copy(merged: MergedModel) -> MergedModel:
    """Return a copy that holds weights in the plan's precisions, and converts them when read."""
    copied, precisions = copy.deepcopy(merged), merged.plan.precision_by_owner
    for _, owner, module in copied.parts():
        store_weights(module, precisions.get(owner, "float32"), str(owner))
    return copied


class StoredModules:
    """Builds the modules of nodes and outputs, each once.

    `models` may be fused; what is rounded is built from the unfused originals, as in a bundle.
    """

    def __init__(
        self, models: ModelsByName, facts: Mapping[str, ModelFacts], maps: LinearMaps
    ) -> None:
        self.models, self.facts, self.maps = models, facts, maps
        self._modules: dict[tuple[Ref, Share | None, Weights], nn.Module] = {}

    def build(self, nodes: Sequence[Node], outputs: Sequence[Output]) -> None:
        """Build all modules that the models do not hold themselves.

        Raises:
            BadPlan: a linear share has no map.
            BadWeights: a weight is too large for its precision.
        """
        for node in nodes:
            key = (node.ref, node.share, node.weights)
            if key in self._modules:
                continue
            if node.share:
                self._modules[key] = self._adapter(node.share, node.weights)
            elif node.weights != AS_GIVEN:
                self._modules[key] = self._stage(node.ref, node.weights)
        for output in outputs:
            key = (Ref(output.model, HEAD), None, output.head)
            if output.head != AS_GIVEN and key not in self._modules:
                self._modules[key] = self._head(output)

    def compute(self, node: Node, read: Tensor) -> Tensor:
        """Return the value of a node, of the value of its source or of its model's input."""
        model = self.models[node.ref.model]
        if node.share:
            adapted: Tensor = self._modules[node.ref, node.share, node.weights](read)
            return adapted
        if node.weights == AS_GIVEN:
            return model.run_stage(node.ref.stage, read)
        return model.run_module(self._modules[node.ref, None, node.weights], read)

    def head(self, output: Output) -> nn.Module:
        """Return the head that computes an output."""
        if output.head == AS_GIVEN:
            return self.models[output.model].head
        return self._modules[Ref(output.model, HEAD), None, output.head]

    def _adapter(self, share: Share, weights: Weights) -> nn.Module:
        model = self.models[share.recipient.model]
        grid = self.facts[model.name].stage(share.recipient.stage).grid
        if weights.folded_away:
            return Adapter(grid)
        linear = self.maps.get(share)
        adapter = build_adapter(share, linear, grid).to(model.device)
        if weights.precision:
            round_weights(adapter, weights.precision, str(share))
        return adapter

    @torch.inference_mode(False)
    @torch.no_grad()
    def _stage(self, ref: Ref, weights: Weights) -> nn.Module:
        original = self.models[ref.model].unfused
        index = original.layout.index(ref.stage)
        module = self._rounded(original.stages[index], f"{ref}", weights, original)
        return fuse_stage(module, self._example(original, index, weights))

    def _head(self, output: Output) -> nn.Module:
        original = self.models[output.model].unfused
        return self._rounded(original.head, output.model, output.head, original)

    def _rounded(
        self, module: nn.Module, name: str, weights: Weights, model: StagedModel
    ) -> nn.Module:
        module = copy.deepcopy(module)
        for path, share in weights.folds:
            module = with_folded(module, path, map_to_fold(share, self.maps).to(model.device))
        if weights.precision:
            round_weights(module, weights.precision, name)
        return module

    def _example(self, model: StagedModel, index: int, weights: Weights) -> Tensor:
        """Return a random input of a stage; a folded map gives it the channels of the donor."""
        if not index:
            return model.example_input()
        facts = self.facts[model.name].stages[index - 1]
        channels = facts.channels
        if weights.folds:
            donor = weights.folds[0][1].donor
            channels = self.facts[donor.model].stage(donor.stage).channels
        generator = torch.Generator().manual_seed(0)
        example = torch.randn((2, channels, *facts.shape[1:]), generator=generator)
        return example.to(model.device)
