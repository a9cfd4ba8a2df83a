"""A plan, the models and the fitted maps, made into one module that runs every stage once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from spaces.adapters import Adapter, LinearMap, build_adapter
from spaces.consumers import HEAD, fold_into_layer
from spaces.errors import BadPlan
from spaces.inputs import Frame
from spaces.liveness import canonical, liveness
from spaces.map_folding import find_fold_targets
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import Node, tap_nodes, upstream_nodes
from spaces.plan import Ref, Share, SharePlan
from spaces.stages import StagedModel

LinearMaps = Mapping[Share, LinearMap]
ModelsByName = Mapping[str, StagedModel]
HeadResult = TypeVar("HeadResult")


def prepare_inputs(models: ModelsByName, frames: list[Frame]) -> dict[str, Tensor]:
    """Every model's (batch, 3, height, width) input; models that want the same share it."""
    asking = {model.input: model for model in models.values()}
    prepared = {spec: model.prepare_frames(frames) for spec, model in asking.items()}
    return {name: prepared[model.input] for name, model in models.items()}


@dataclass(frozen=True)
class ExecutionStep:
    """One call: a stage or an adapter that makes a node's value, or a head that answers."""

    makes: Node | None
    """None for a head."""
    reads: tuple[Node, ...]
    """Empty for a first stage, which reads its model's input."""
    model: str
    """Whose stage, adapter (then the recipient's) or head it is."""
    frees: tuple[Node, ...]
    """What no later step reads."""


def execution_order(heads: Iterable[tuple[str, tuple[Node, ...]]]) -> list[ExecutionStep]:
    """The steps to the answers of heads, each given with its model and the nodes that it reads.

    Every node is made once. A head runs as soon as its taps are there: then they need not wait.
    """
    calls: list[tuple[Node | None, tuple[Node, ...], str]] = []
    made: set[Node] = set()
    for model, taps in heads:
        for node in upstream_nodes(taps):
            if node not in made:
                source = () if node.source is None else (node.source,)
                calls.append((node, source, node.ref.model))
        made.update(upstream_nodes(taps))
        calls.append((None, taps, model))
    last = {node: place for place, (_, reads, _) in enumerate(calls) for node in reads}
    return [
        ExecutionStep(
            makes, reads, model, tuple(n for n in dict.fromkeys(reads) if last[n] == place)
        )
        for place, (makes, reads, model) in enumerate(calls)
    ]


class MergedModel(nn.Module):
    """All models of a deployment with a plan's shares in place; holds only what is live.

    Stages that no map was folded into are the original modules, not copies.
    """

    def __init__(
        self,
        models: ModelsByName,
        facts: Mapping[str, ModelFacts],
        plan: SharePlan,
        maps: LinearMaps,
    ) -> None:
        super().__init__()
        layouts = layouts_by_model(facts)
        self.plan = canonical(plan, layouts)
        live = liveness(self.plan, layouts)
        device = next(iter(models.values())).device
        owners = _owners(models, live.stages)
        adapters: dict[Share, Adapter] = {}
        copied: set[tuple[str, str]] = set()
        for share in self.plan.shares:
            grid = facts[share.recipient.model].stage(share.recipient.stage).grid
            fold = find_fold_targets(share, live, facts)
            if fold.refusal:
                adapters[share] = build_adapter(share, maps.get(share), grid).to(device)
                continue
            adapters[share] = Adapter(grid)
            linear = _map_of(share, maps).to(device)
            for consumer in fold.consumers:
                key = (share.recipient.model, consumer.owner)
                if key not in copied:
                    owners[key] = copy.deepcopy(owners[key])
                    copied.add(key)
                owners[key] = _with_folded(owners[key], consumer.path, linear)
        self._steps = execution_order(
            (name, tap_nodes(name, self.plan, layouts)) for name in layouts
        )
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
        return frozenset(step.model for step in self._steps if not step.reads)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every model's answer, from each read model's prepared (batch, 3, h, w) input.

        A representation is let go after its last consumer. An input is asked for once, when its
        first stage runs, so a mapping may hand over its only reference.
        """
        return self.answers(inputs, lambda head, taps: head(taps))

    def answers(
        self, inputs: Mapping[str, Tensor], read: Callable[[nn.Module, list[Tensor]], HeadResult]
    ) -> dict[str, HeadResult]:
        """As `forward`, but of each head what `read` makes of it and its taps."""
        values: dict[Node, Tensor] = {}
        answers: dict[str, HeadResult] = {}
        for step in self._steps:
            if step.makes is None:
                head = self.heads[_key(step.model, HEAD)]
                answers[step.model] = read(head, [values[node] for node in step.reads])
            else:
                # No name may stay bound to what is read: it would outlive its last consumer.
                values[step.makes] = self._module(step.makes)(
                    values[step.reads[0]] if step.reads else inputs[step.model]
                )
            for node in step.frees:
                del values[node]
        return answers

    def _module(self, node: Node) -> nn.Module:
        key = _key(node.ref.model, node.ref.stage)
        return self.adapters[key] if node.share else self.stages[key]


def _owners(models: ModelsByName, live: frozenset[Ref]) -> dict[tuple[str, str], nn.Module]:
    owners: dict[tuple[str, str], nn.Module] = {}
    for name, model in models.items():
        for stage, module in zip(model.layout.stages, model.stages, strict=True):
            if Ref(name, stage) in live:
                owners[name, stage] = module
        owners[name, HEAD] = model.head
    return owners


def _map_of(share: Share, maps: LinearMaps) -> LinearMap:
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
        return fold_into_layer(owner, linear.weight, linear.bias)
    owner.set_submodule(
        path, fold_into_layer(owner.get_submodule(path), linear.weight, linear.bias)
    )
    return owner


def _key(model: str, stage: str) -> str:
    """nn.ModuleDict allows no dots in its keys, nor names of its own methods."""
    text = f"{model}:{stage}"
    return text.replace("~", "~0").replace("/", "~1").replace(".", "/")
