"""Build one module from a plan, the models and the fitted maps; it runs each live stage once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from spaces.adapters import Adapter, LinearMap, build_adapter
from spaces.consumers import fold_into_layer
from spaces.errors import BadPlan
from spaces.inputs import Frame
from spaces.liveness import Liveness, canonical, liveness
from spaces.map_folding import find_fold_targets
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import Node, Output, tap_nodes, upstream_nodes
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.stages import StagedModel

LinearMaps = Mapping[Share, LinearMap]
ModelsByName = Mapping[str, StagedModel]
HeadResult = TypeVar("HeadResult")


def prepare_inputs(models: ModelsByName, frames: list[Frame]) -> dict[str, Tensor]:
    """Return the (batch, c, height, width) input of each model by name.

    Models with equal input specs get the same tensor.
    """
    by_spec = {model.input: model for model in models.values()}
    prepared = {spec: model.prepare_frames(frames) for spec, model in by_spec.items()}
    return {name: prepared[model.input] for name, model in models.items()}


@dataclass(frozen=True)
class ExecutionStep:
    """One call of a stage, an adapter or a head."""

    makes: Node | None
    """The node whose value a stage or an adapter computes; None for a head."""
    reads: tuple[Node, ...]
    """The nodes that are read; empty for a first stage, which reads the input of its model."""
    model: str
    """The model that the stage or head belongs to; for an adapter, the recipient."""
    output: Output | None = None
    """The output that a head computes; None for a stage or an adapter."""
    frees: tuple[Node, ...] = ()
    """The nodes that no later step reads."""


def execution_order(outputs: Iterable[Output]) -> list[ExecutionStep]:
    """Return the steps that compute outputs, every node once.

    A head runs as soon as its taps are computed, so that they can be freed early.
    """
    steps: list[ExecutionStep] = []
    scheduled: set[Node] = set()
    for output in outputs:
        for node in upstream_nodes(output.taps):
            if node not in scheduled:
                source = () if node.source is None else (node.source,)
                steps.append(ExecutionStep(node, source, node.ref.model))
        scheduled.update(upstream_nodes(output.taps))
        steps.append(ExecutionStep(None, output.taps, output.model, output))
    last_read = {node: index for index, step in enumerate(steps) for node in step.reads}
    return [
        replace(step, frees=tuple(n for n in dict.fromkeys(step.reads) if last_read[n] == index))
        for index, step in enumerate(steps)
    ]


class MergedModel(nn.Module):
    """All models of a deployment with the shares of a plan in place; it holds only live stages.

    Stages are the original modules and not copies, except those with a folded map.

    Raises:
        BadPlan: the plan does not fit the models, contains a cycle, or a linear share has no map.
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
        self.plan = canonical(plan, layouts).with_own_maps()
        live = liveness(self.plan, layouts)
        owners = _live_modules(models, live.stages)
        device = next(iter(models.values())).device
        adapters = _place_shares(self.plan, live, facts, maps, owners, device)
        self._owners = (*owners, *(share.recipient for share in adapters))
        self._steps = execution_order(
            Output(name, tap_nodes(name, self.plan, layouts)) for name in layouts
        )
        self.stages = nn.ModuleDict(
            {_key(owner): module for owner, module in owners.items() if owner.stage != HEAD}
        )
        self.heads = nn.ModuleDict(
            {_key(owner): module for owner, module in owners.items() if owner.stage == HEAD}
        )
        self.adapters = nn.ModuleDict(
            {_key(share.recipient): adapter for share, adapter in adapters.items()}
        )

    def parts(self) -> Iterator[tuple[str, Ref, nn.Module]]:
        """Yield each stage, head and adapter with its path and its owner.

        The owner of an adapter is the recipient's representation.
        """
        owners = {_key(ref): ref for ref in self._owners}
        for group in ("stages", "heads", "adapters"):
            for key, module in self.get_submodule(group).named_children():
                yield f"{group}.{key}", owners[key], module

    @property
    def inputs_read(self) -> frozenset[str]:
        """The models whose input is still read; frames need not be prepared for the others."""
        return frozenset(step.model for step in self._steps if not step.reads)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the output of each model, by name.

        `inputs` holds the prepared (batch, c, height, width) input of each model in `inputs_read`.
        A representation is freed after its last use. Each input is looked up once, when its first
        stage runs, so that a mapping can give up its only reference.
        """
        return self.answers(inputs, lambda head, taps: head(taps))

    def answers(
        self, inputs: Mapping[str, Tensor], read: Callable[[nn.Module, list[Tensor]], HeadResult]
    ) -> dict[str, HeadResult]:
        """Return `read(head, taps)` for each model instead of its head's output; see `forward`."""
        values: dict[Node, Tensor] = {}
        answers: dict[str, HeadResult] = {}
        for step in self._steps:
            if step.makes is None:
                head = self.heads[_key(Ref(step.model, HEAD))]
                answers[step.model] = read(head, [values[node] for node in step.reads])
            else:
                # Bind no name to the tensor that is read: it would stay alive after its last use.
                values[step.makes] = self._module(step.makes)(
                    values[step.reads[0]] if step.reads else inputs[step.model]
                )
            for node in step.frees:
                del values[node]
        return answers

    def _module(self, node: Node) -> nn.Module:
        key = _key(node.ref)
        return self.adapters[key] if node.share else self.stages[key]


def _live_modules(models: ModelsByName, live: frozenset[Ref]) -> dict[Ref, nn.Module]:
    modules: dict[Ref, nn.Module] = {}
    for name, model in models.items():
        for stage, module in zip(model.layout.stages, model.stages, strict=True):
            if Ref(name, stage) in live:
                modules[Ref(name, stage)] = module
        modules[Ref(name, HEAD)] = model.head
    return modules


def _place_shares(
    plan: SharePlan,
    live: Liveness,
    facts: Mapping[str, ModelFacts],
    maps: LinearMaps,
    owners: dict[Ref, nn.Module],
    device: torch.device,
) -> dict[Share, Adapter]:
    """Fold the maps of a plan into the modules in `owners`, and return the adapters.

    A module is replaced by a copy before the first map is folded into it.
    """
    adapters: dict[Share, Adapter] = {}
    copied: set[Ref] = set()
    for share in plan.shares:
        grid = facts[share.recipient.model].stage(share.recipient.stage).grid
        fold = find_fold_targets(share, live, facts)
        if fold.refusal:
            adapters[share] = build_adapter(share, maps.get(share), grid).to(device)
            continue
        adapters[share] = Adapter(grid)
        linear = map_to_fold(share, maps).to(device)
        for consumer in fold.consumers:
            owner = Ref(share.recipient.model, consumer.owner)
            if owner not in copied:
                owners[owner] = copy.deepcopy(owners[owner])
                copied.add(owner)
            owners[owner] = with_folded(owners[owner], consumer.path, linear)
    return adapters


def map_to_fold(share: Share, maps: LinearMaps) -> LinearMap:
    """Return the map to fold; a low-rank map is folded as the product of its factors."""
    linear = maps.get(share)
    if linear is None:
        raise BadPlan(f"{share}: no linear map was fitted for it")
    if not share.adapter.rank:
        return linear
    up, down = linear.low_rank(share.adapter.rank)
    return LinearMap(up @ down, linear.bias)


@torch.no_grad()
def with_folded(owner: nn.Module, path: str, linear: LinearMap) -> nn.Module:
    """Return a stage or head with the map folded into its layer at `path`, in place.

    Without a path, the stage or head is the layer.
    """
    if not path:
        return fold_into_layer(owner, linear.weight, linear.bias)
    owner.set_submodule(
        path, fold_into_layer(owner.get_submodule(path), linear.weight, linear.bias)
    )
    return owner


def _key(ref: Ref) -> str:
    """Return a key for nn.ModuleDict, which allows neither dots nor names of its own methods."""
    return str(ref).replace("~", "~0").replace("/", "~1").replace(".", "/")
