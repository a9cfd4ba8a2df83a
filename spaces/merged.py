"""A plan, the models and the fitted maps, made into one module that runs every stage once."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spaces.adapters import Adapter, LinearMap, build_adapter
from spaces.errors import BadPlan
from spaces.facts import ModelFacts, layouts_of
from spaces.folding import fold_of
from spaces.liveness import canonical, liveness
from spaces.nodes import in_order, tap_nodes
from spaces.plan import Ref, Share, SharePlan
from spaces.readers import HEAD, folded
from spaces.stages import StagedModel

Maps = Mapping[Share, LinearMap]
Models = Mapping[str, StagedModel]


class MergedModel(nn.Module):
    """All models of a deployment with a plan's shares in place; holds only what is live.

    Stages that no map was folded into are the original modules, not copies.
    """

    def __init__(
        self, models: Models, facts: Mapping[str, ModelFacts], plan: SharePlan, maps: Maps
    ) -> None:
        super().__init__()
        layouts = layouts_of(facts)
        self.plan = canonical(plan, layouts)
        live = liveness(self.plan, layouts)
        device = next(iter(models.values())).device
        owners = _owners(models, live.stages)
        adapters: dict[Share, Adapter] = {}
        copied: set[tuple[str, str]] = set()
        for share in self.plan.shares:
            grid = facts[share.recipient.model].stage(share.recipient.stage).grid
            fold = fold_of(share, live, facts)
            if fold.refusal:
                adapters[share] = build_adapter(share, maps.get(share), grid).to(device)
                continue
            adapters[share] = Adapter(grid)
            linear = _map_of(share, maps).to(device)
            for reader in fold.readers:
                key = (share.recipient.model, reader.owner)
                if key not in copied:
                    owners[key] = copy.deepcopy(owners[key])
                    copied.add(key)
                owners[key] = _with_folded(owners[key], reader.path, linear)
        self._taps = {name: tap_nodes(name, self.plan, layouts) for name in models}
        self._order = in_order(tuple(node for taps in self._taps.values() for node in taps))
        self.stages = nn.ModuleDict(
            {_key(*owner): module for owner, module in owners.items() if owner[1] != HEAD}
        )
        self.heads = nn.ModuleDict({_key(name, HEAD): owners[name, HEAD] for name in models})
        self.adapters = nn.ModuleDict(
            {
                _key(share.recipient.model, share.recipient.stage): adapter
                for share, adapter in adapters.items()
            }
        )

    @property
    def inputs_read(self) -> frozenset[str]:
        """The models whose own input is still read; the others' frames need not be prepared."""
        return frozenset(node.ref.model for node in self._order if node.source is None)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every model's answer, from each read model's prepared (batch, 3, h, w) input."""
        values: dict[Ref, Tensor] = {}
        for node in self._order:
            key = _key(node.ref.model, node.ref.stage)
            module = self.adapters[key] if node.share else self.stages[key]
            source = inputs[node.ref.model] if node.source is None else values[node.source.ref]
            values[node.ref] = module(source)
        return {
            name: self.heads[_key(name, HEAD)]([values[tap.ref] for tap in taps])
            for name, taps in self._taps.items()
        }


def _owners(models: Models, live: frozenset[Ref]) -> dict[tuple[str, str], nn.Module]:
    owners: dict[tuple[str, str], nn.Module] = {}
    for name, model in models.items():
        for stage, module in zip(model.layout.stages, model.stages, strict=True):
            if Ref(name, stage) in live:
                owners[name, stage] = module
        owners[name, HEAD] = model.head
    return owners


def _map_of(share: Share, maps: Maps) -> LinearMap:
    """The map to fold; one of low rank is folded as the full matrix that it is."""
    linear = maps.get(share)
    if linear is None:
        raise BadPlan(f"{share}: no linear map was fitted for it")
    if not share.adapter.rank:
        return linear
    up, down = linear.low_rank(share.adapter.rank)
    return LinearMap(up @ down, linear.bias)


@torch.no_grad()
def _with_folded(owner: nn.Module, path: str, linear: LinearMap) -> nn.Module:
    """The owner with the layer at `path` replaced; the owner may be that layer itself."""
    if not path:
        return folded(owner, linear.weight, linear.bias)
    owner.set_submodule(path, folded(owner.get_submodule(path), linear.weight, linear.bias))
    return owner


def _key(model: str, stage: str) -> str:
    """nn.ModuleDict allows no dots in its keys, nor names of its own methods."""
    text = f"{model}:{stage}"
    return text.replace("~", "~0").replace("/", "~1").replace(".", "/")
