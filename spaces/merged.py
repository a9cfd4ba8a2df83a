"""Build one module from a plan, the models and the fitted maps; it runs each live stage once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from spaces.adapters import Adapter, LinearMap, build_adapter
from spaces.consumers import fold_into_layer
from spaces.errors import BadPlan
from spaces.execution import EntryPoint, answering, tail, trunk
from spaces.inputs import Frame
from spaces.liveness import Liveness, canonical, liveness
from spaces.map_folding import find_fold_targets
from spaces.model_facts import ModelFacts, layouts_by_model
from spaces.node import Node, Output, tap_nodes
from spaces.plan import HEAD, Ref, Share, SharePlan
from spaces.stages import StagedModel

LinearMaps = Mapping[Share, LinearMap]
ModelsByName = Mapping[str, StagedModel]
HeadResult = TypeVar("HeadResult")


def run_head(head: nn.Module, taps: list[Tensor]) -> Tensor:
    """Return the answer of a head, (batch, ...)."""
    answer: Tensor = head(taps)
    return answer


def prepare_inputs(models: ModelsByName, frames: list[Frame]) -> dict[str, Tensor]:
    """Return the (batch, c, height, width) input of each model by name.

    Models with equal input specs get the same tensor.
    """
    by_spec = {model.input: model for model in models.values()}
    prepared = {spec: model.prepare_frames(frames) for spec, model in by_spec.items()}
    return {name: prepared[model.input] for name, model in models.items()}


class PartialRun(NamedTuple, Generic[HeadResult]):
    """What a part of a merged model returns."""

    representations: dict[Node, Tensor]
    answers: dict[str, HeadResult]
    """By model."""


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
        self._outputs = {
            name: Output(name, tap_nodes(name, self.plan, layouts)) for name in layouts
        }
        self.whole = answering(self._outputs.values())
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

    def restricted_to(self, entries: Iterable[EntryPoint]) -> MergedModel:
        """Return the same model with only the modules that some parts of it run."""
        steps = [step for entry in entries for step in entry.steps]
        nodes = [step.makes for step in steps if step.makes]
        owners = {
            "stages": {node.ref for node in nodes if not node.share},
            "adapters": {node.ref for node in nodes if node.share},
            "heads": {Ref(step.model, HEAD) for step in steps if step.output},
        }
        restricted = copy.copy(self)
        restricted._modules = dict(self._modules)
        for group, refs in owners.items():
            keys = {_key(ref) for ref in refs}
            children = self.get_submodule(group).named_children()
            modules = {key: module for key, module in children if key in keys}
            setattr(restricted, group, nn.ModuleDict(modules))
        return restricted

    @property
    def inputs_read(self) -> frozenset[str]:
        """The models whose input is still read; frames need not be prepared for the others."""
        return self.whole.inputs_read

    @cached_property
    def trunk(self) -> EntryPoint:
        """The part that several models need."""
        return trunk(self._outputs.values())

    @property
    def outputs(self) -> Mapping[str, Output]:
        """The output of each model, by name."""
        return self._outputs

    def tail(self, model: str) -> EntryPoint:
        """Return the part that a model needs besides the trunk."""
        return self._tails[model]

    def alone(self, model: str) -> EntryPoint:
        """Return the part that answers for one model, from frames alone."""
        return self._alone[model]

    @cached_property
    def _tails(self) -> Mapping[str, EntryPoint]:
        """The tail of each model: a box runs them frame by frame."""
        return {name: tail(output, self.trunk) for name, output in self._outputs.items()}

    @cached_property
    def _alone(self) -> Mapping[str, EntryPoint]:
        return {name: answering([output]) for name, output in self._outputs.items()}

    def answering(self, models: Collection[str]) -> EntryPoint:
        """Return the part that answers for some of the models, from frames alone."""
        return answering(output for name, output in self._outputs.items() if name in models)

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
        return self.run(self.whole, inputs, {}, read).answers

    def run(
        self,
        entry: EntryPoint,
        inputs: Mapping[str, Tensor],
        taken: Mapping[Node, Tensor],
        read: Callable[[nn.Module, list[Tensor]], HeadResult],
    ) -> PartialRun[HeadResult]:
        """Run a part of the model; `taken` holds the nodes that it takes, see `forward`."""
        values = dict(taken)
        answers: dict[str, HeadResult] = {}
        for step in entry.steps:
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
        return PartialRun({node: values[node] for node in entry.gives}, answers)

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
